// Command exporter-go sends numbered spans over OTLP/HTTP with the Go SDK's exporter; see README.md.
package main

import (
	"context"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const spansPerBatch = 5

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

func batch(first int) []sdk.ReadOnlySpan {
	stubs := make(tracetest.SpanStubs, spansPerBatch)
	for i := range stubs {
		now := time.Now()
		stubs[i] = tracetest.SpanStub{
			Name: "item",
			SpanContext: trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
			}),
			StartTime:  now,
			EndTime:    now,
			Attributes: []attribute.KeyValue{attribute.Int("test.number", first+i)},
		}
	}
	return stubs.Snapshots()
}

func main() {
	url, authorization := os.Args[1], os.Args[2]
	senders, batches, pauseMs := number(os.Args[3]), number(os.Args[4]), number(os.Args[5])
	var failed atomic.Int64
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			ctx := context.Background()
			// By default all exporters of a process share a transport that keeps two connections.
			client := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
			exporter, err := otlptracehttp.New(ctx,
				otlptracehttp.WithHTTPClient(client),
				otlptracehttp.WithEndpointURL(url),
				otlptracehttp.WithHeaders(map[string]string{"Authorization": authorization}),
				otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}))
			if err != nil {
				panic(err)
			}
			for i := range batches {
				if err := exporter.ExportSpans(ctx, batch((sender*batches+i)*spansPerBatch)); err != nil {
					failed.Add(1)
					fmt.Fprintln(os.Stderr, "failed:", err)
				}
				time.Sleep(time.Duration(rand.Float64() * float64(pauseMs) * float64(time.Millisecond)))
			}
		})
	}
	group.Wait()
	fmt.Printf("batches %d, failed %d\n", senders*batches, failed.Load())
}
