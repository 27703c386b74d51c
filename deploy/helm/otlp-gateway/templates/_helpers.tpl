{{- define "otlp-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "otlp-gateway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- else if contains (include "otlp-gateway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "otlp-gateway.name" .) | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "otlp-gateway.selector" -}}
app.kubernetes.io/name: {{ include "otlp-gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "otlp-gateway.labels" -}}
{{ include "otlp-gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "otlp-gateway.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "otlp-gateway.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "otlp-gateway.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "otlp-gateway.tlsSecret" -}}
{{- default (printf "%s-tls" (include "otlp-gateway.fullname" .)) .Values.tls.secretName -}}
{{- end -}}

{{- define "otlp-gateway.replicas" -}}
{{- if eq .Values.store.kind "sqlite" -}}1{{- else -}}{{ .Values.replicas }}{{- end -}}
{{- end -}}

{{/* The gateway's configuration: what the chart sets, and over it the user's. */}}
{{- define "otlp-gateway.config" -}}
{{- $secrets := "/etc/otlp-gateway/secrets" -}}
{{- $listen := list (dict "address" ":4317") (dict "address" ":4318") -}}
{{- if .Values.tls.enabled -}}
{{- $files := dict "cert_file" "/etc/otlp-gateway/tls/tls.crt" "key_file" "/etc/otlp-gateway/tls/tls.key" -}}
{{- $listen = append $listen (dict "address" ":4443" "tls" $files) -}}
{{- end -}}
{{- $limits := dict "drain_delay" (printf "%vs" .Values.drain.delaySeconds) "drain_timeout" (printf "%vs" .Values.drain.timeoutSeconds) -}}
{{- $stores := list -}}
{{- if eq .Values.store.kind "sqlite" -}}
{{- $stores = append $stores "sqlite:///var/lib/otlp-gateway/keys.db" -}}
{{- else if eq .Values.store.kind "postgresql" -}}
{{- $stores = append $stores .Values.store.postgresql.url -}}
{{- end -}}
{{- if .Values.secrets.senderKeys.name -}}
{{- $stores = append $stores "file:///etc/otlp-gateway/keys" -}}
{{- end -}}
{{- $admin := dict "address" "127.0.0.1:8090" "metrics_address" ":9090" -}}
{{- if .Values.secrets.adminToken.name -}}
{{- $_ := set $admin "tokens" (list (dict "name" "operator" "token" (printf "${file:%s/admin-token}" $secrets))) -}}
{{- end -}}
{{- $own := dict "listen" $listen "admin" $admin "limits" $limits "log" (dict "format" "json") "state_dir" "/var/lib/otlp-gateway" -}}
{{- if $stores -}}
{{- $_ := set $own "keys" (dict "stores" $stores) -}}
{{- end -}}
{{- if .Values.secrets.receiverKey.name -}}
{{- $_ := set $own "auth" (dict "receiver_keys" (list (dict "name" "receiver" "key" (printf "${file:%s/receiver-key}" $secrets)))) -}}
{{- end -}}
{{- $config := mustMergeOverwrite $own (deepCopy .Values.config) -}}
{{- if .Values.secrets.backendKey.name -}}
{{- $key := dict "key" "gateway" "gateway_key" (printf "${file:%s/backend-key}" $secrets) -}}
{{- $_ := set $config "forward" (mustMergeOverwrite (default (dict) $config.forward) $key) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Secrets as files of one folder: backend-key, admin-token, receiver-key. */}}
{{- define "otlp-gateway.secretFiles" -}}
{{- range $file, $secret := dict "backend-key" .Values.secrets.backendKey "admin-token" .Values.secrets.adminToken "receiver-key" .Values.secrets.receiverKey }}
{{- if $secret.name }}
- secret:
    name: {{ $secret.name }}
    items: [{key: {{ $secret.key }}, path: {{ $file }}}]
{{- end }}
{{- end }}
{{- end -}}
