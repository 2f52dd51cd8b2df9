{{/*
Configuration files of the processes. What the chart decides itself it also keeps: the schema refuses
those keys in values.
*/}}

{{- define "lengthwise.baseConfig" -}}
model: {{ include "lengthwise.modelPath" . | quote }}
served_name: {{ include "lengthwise.modelName" . | quote }}
listen: 0.0.0.0:50051
metrics_listen: 0.0.0.0:9090
{{- if .Values.tls.enabled }}
tls:
  certificate: /etc/lengthwise/tls/tls.crt
  private_key: /etc/lengthwise/tls/tls.key
  {{- if .Values.tls.mutual }}
  authority: /etc/lengthwise/tls/ca.crt
  {{- end }}
  # Pods are reached at addresses: this is the name their certificates are checked against.
  server_name: {{ include "lengthwise.workersService" . }}
{{- end }}
{{- end -}}

{{- define "lengthwise.routerConfig" -}}
{{- $services := list (include "lengthwise.workersService" .) -}}
{{- $own := dict
  "drain_seconds" .Values.router.drainSeconds
  "discovery" (dict "kubernetes" (dict "services" $services)) -}}
{{- toYaml (merge $own (include "lengthwise.baseConfig" . | fromYaml) .Values.router.config) -}}
{{- end -}}

{{/* POD_IP is replaced when the container starts. */}}
{{- define "lengthwise.workerConfig" -}}
{{- $own := dict
  "device" .pool.device
  "drain_seconds" .pool.drainSeconds
  "advertise_host" "POD_IP" -}}
{{- toYaml (merge $own (include "lengthwise.baseConfig" .root | fromYaml) .pool.config) -}}
{{- end -}}
