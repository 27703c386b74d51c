// Command kubestrict reads Kubernetes manifests from standard input and decodes each of them strictly
// into the types of its API: an unknown kind, an unknown or repeated field, and a value of a wrong
// type are errors. So are those in an Istio policy, and in Istio's MeshConfig in a ConfigMap. It prints
// "KIND NAME" for each manifest, and ends with 1 after an error.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	certmanager "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	envoygateway "github.com/envoyproxy/gateway/api/v1alpha1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	mesh "istio.io/api/mesh/v1alpha1"
	security "istio.io/api/security/v1beta1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gateways "sigs.k8s.io/gateway-api/apis/v1"
	sigsyaml "sigs.k8s.io/yaml"
)

func main() {
	if err := check(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func check(from io.Reader, to io.Writer) error {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, certmanager.AddToScheme, monitoring.AddToScheme, gateways.Install,
		envoygateway.AddToScheme,
	} {
		if err := add(known); err != nil {
			return err
		}
	}
	known.AddKnownTypeWithName(istioSecurity.WithKind("AuthorizationPolicy"), &authorizationPolicy{})
	options := json.SerializerOptions{Yaml: true, Strict: true}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, known, known, options)
	documents := yaml.NewYAMLReader(bufio.NewReader(from))
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if isEmpty(text) {
			continue
		}
		object, kind, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return fmt.Errorf("%w in\n%s", err, text)
		}
		if err := checkIstio(object); err != nil {
			return fmt.Errorf("%w in\n%s", err, text)
		}
		named, err := meta.Accessor(object)
		if err != nil {
			return err
		}
		fmt.Fprintln(to, kind.Kind, named.GetName())
	}
}

var istioSecurity = schema.GroupVersion{Group: "security.istio.io", Version: "v1"}

// authorizationPolicy is Istio's kind with its spec as it came: what Istio's own type decodes, it decodes
// without a complaint about unknown fields.
type authorizationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              map[string]any `json:"spec"`
}

func (p *authorizationPolicy) GetObjectKind() schema.ObjectKind { return &p.TypeMeta }

func (p *authorizationPolicy) DeepCopyObject() runtime.Object {
	same := *p
	return &same
}

// checkIstio decodes strictly what is Istio's in an object.
func checkIstio(object runtime.Object) error {
	switch found := object.(type) {
	case *authorizationPolicy:
		spec, err := sigsyaml.Marshal(found.Spec)
		if err != nil {
			return err
		}
		return decodeStrictly(spec, &security.AuthorizationPolicy{})
	case *core.ConfigMap:
		if text, ok := found.Data["mesh"]; ok {
			return decodeStrictly([]byte(text), &mesh.MeshConfig{})
		}
	}
	return nil
}

func decodeStrictly(text []byte, into proto.Message) error {
	asJSON, err := sigsyaml.YAMLToJSONStrict(text)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(asJSON, into)
}

// isEmpty tells whether a document has nothing but comments.
func isEmpty(text []byte) bool {
	for _, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}
