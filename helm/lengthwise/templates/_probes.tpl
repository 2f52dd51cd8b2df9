{{/*
Probes of routers and workers, once a second while they start for `.seconds` at most. Draining takes
readiness, not life. The kubelet's gRPC probes speak no TLS: with it, they ask over HTTP.
*/}}
{{- define "lengthwise.probes" -}}
{{- $ready := "grpc: {port: 50051}" -}}
{{- $alive := "grpc: {port: 50051, service: live}" -}}
{{- if .root.Values.tls.enabled -}}
{{- $scheme := include "lengthwise.metricsScheme" .root -}}
{{- $ready = printf "httpGet: {path: /healthz, port: metrics, scheme: %s}" $scheme -}}
{{- $alive = printf "httpGet: {path: /livez, port: metrics, scheme: %s}" $scheme -}}
{{- end -}}
startupProbe:
  {{ $ready }}
  periodSeconds: 1
  failureThreshold: {{ int .seconds }}
readinessProbe:
  {{ $ready }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  {{ $alive }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 6
{{- end -}}

{{- define "lengthwise.metricsScheme" -}}
{{- ternary "HTTPS" "HTTP" (and .Values.tls.enabled .Values.tls.metrics) -}}
{{- end -}}
