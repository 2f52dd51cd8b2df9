{{/*
Configuration files of the processes. What the chart decides itself it also keeps: the schema refuses
those keys in values.
*/}}

{{- define "lengthwise.tlsConfig" -}}
{{- if .Values.tls.enabled -}}
tls:
  certificate: /etc/lengthwise/tls/tls.crt
  private_key: /etc/lengthwise/tls/tls.key
  {{- if .Values.tls.mutual }}
  authority: /etc/lengthwise/tls/ca.crt
  # Without a Secret of its own, the autoscaler shows what the routers show.
  callers:
    routers: [{{ include "lengthwise.fullname" . }}]
    workers: [{{ include "lengthwise.workersService" . }}]
    autoscalers: [{{ include (ternary "lengthwise.autoscaler" "lengthwise.fullname" (not (empty .Values.tls.autoscalerSecretName))) . }}]
  {{- end }}
  # Pods are reached at addresses: this is the name their certificates are checked against.
  server_name: {{ include "lengthwise.workersService" . }}
{{- if .Values.tls.metrics }}
metrics_tls:
  certificate: /etc/lengthwise/tls/tls.crt
  private_key: /etc/lengthwise/tls/tls.key
{{- end }}
{{- end -}}
{{- end -}}

{{/* What clients meet at the routers' port, where it is something else. */}}
{{- define "lengthwise.clientTlsConfig" -}}
{{- if and .Values.tls.enabled .Values.tls.clients.secretName -}}
client_tls:
  certificate: /etc/lengthwise/client-tls/tls.crt
  private_key: /etc/lengthwise/client-tls/tls.key
  {{- if .Values.tls.clients.mutual }}
  authority: /etc/lengthwise/client-tls/ca.crt
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "lengthwise.servedModel" -}}
model: {{ include "lengthwise.modelPath" . | quote }}
served_name: {{ .name | quote }}
{{- end -}}

{{- define "lengthwise.baseConfig" -}}
listen: 0.0.0.0:50051
metrics_listen: 0.0.0.0:9090
{{ include "lengthwise.tlsConfig" . }}
{{- end -}}

{{- define "lengthwise.routerConfig" -}}
{{- $services := list (include "lengthwise.workersService" .) -}}
{{- $base := include "lengthwise.baseConfig" . | fromYaml -}}
{{- $models := include "lengthwise.modelsTogether" . | fromJsonArray -}}
{{- $served := list -}}
{{- range $models -}}
{{- $served = append $served (merge (dict "objectives" .objectives) (include "lengthwise.servedModel" . | fromYaml)) -}}
{{- end -}}
{{- $what := ternary (first $served) (dict "models" $served "objectives" .Values.objectives) (eq (len $served) 1) -}}
{{- $own := dict
  "drain_seconds" .Values.router.drainSeconds
  "discovery" (dict "kubernetes" (dict "services" $services)) -}}
{{- if .Values.http.enabled -}}
{{- $_ := set $own "http" (dict "listen" "0.0.0.0:8000" "page" .Values.http.page "cors_origins" .Values.http.corsOrigins) -}}
{{- end -}}
{{- if .Values.router.keys.secretName -}}
{{- $replicas := ternary (dict) (dict "router_replicas" .Values.router.replicas) (kindIs "invalid" .Values.router.replicas) -}}
{{- $_ := set $own "keys" (merge (dict "file" "/etc/lengthwise/keys/keys.yaml") $replicas) -}}
{{- end -}}
{{- with .Values.tracing -}}
{{- if .endpoint -}}
{{- $_ := set $own "tracing" (dict "endpoint" .endpoint "sampling_ratio" .samplingRatio) -}}
{{- end -}}
{{- end -}}
{{- $clients := include "lengthwise.clientTlsConfig" . | fromYaml -}}
{{- toYaml (merge $own $what $clients $base .Values.router.config) -}}
{{- end -}}

{{- define "lengthwise.workerConfig" -}}
{{- $base := merge (include "lengthwise.servedModel" .pool.weights | fromYaml) (include "lengthwise.baseConfig" .root | fromYaml) -}}
{{- $own := dict
  "objectives" .pool.weights.objectives
  "device" .pool.device
  "drain_seconds" .pool.drainSeconds -}}
{{- with .root.Values.tracing.endpoint -}}
{{- $_ := set $own "tracing" (dict "endpoint" .) -}}
{{- end -}}
{{- if .pool.flexible -}}
{{- $_ := set $own "role" .pool.role -}}
{{- end -}}
{{- if .pool.lengthClass -}}
{{- $_ := set $own "length_class" .pool.lengthClass -}}
{{- end -}}
{{- toYaml (merge $own $base .pool.config) -}}
{{- end -}}

{{/* A duration of Prometheus' in seconds. */}}
{{- define "lengthwise.seconds" -}}
{{- if hasSuffix "ms" . -}}
{{- divf (trimSuffix "ms" . | float64) 1000 -}}
{{- else if hasSuffix "m" . -}}
{{- mulf (trimSuffix "m" . | float64) 60 -}}
{{- else -}}
{{- trimSuffix "s" . -}}
{{- end -}}
{{- end -}}

{{/*
All pools, in the order of preference: those that it does not size do work of their group too.
*/}}
{{- define "lengthwise.autoscalerConfig" -}}
{{- $root := . -}}
{{- $name := include "lengthwise.fullname" . -}}
{{- $pools := list -}}
{{- $names := list -}}
{{- range include "lengthwise.pools" . | fromJsonArray -}}
{{- $names = append $names .weights.name -}}
{{- $pool := dict "name" .name "model" .weights.name "role" .role "flexible" .flexible -}}
{{- if .autoscale.enabled -}}
{{- $_ := set $pool "deployment" (printf "%s-%s" $name .name) -}}
{{- $_ := set $pool "min_replicas" .autoscale.min -}}
{{- $_ := set $pool "max_replicas" .autoscale.max -}}
{{- else -}}
{{- $_ := set $pool "fixed" true -}}
{{- end -}}
{{- if .lengthClass -}}
{{- $_ := set $pool "length_class" .lengthClass -}}
{{- end -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- $prometheus := dict "url" .Values.autoscaler.prometheus.url -}}
{{- if .Values.autoscaler.prometheus.bearerTokenSecret -}}
{{- $_ := set $prometheus "bearer_token" "/etc/lengthwise/prometheus/token" -}}
{{- end -}}
{{- if .Values.autoscaler.prometheus.authoritySecret -}}
{{- $_ := set $prometheus "authority" "/etc/lengthwise/prometheus/ca.crt" -}}
{{- end -}}
{{- $objectives := dict -}}
{{- range include "lengthwise.models" . | fromJsonArray -}}
{{- if has .name $names -}}
{{- $_ := set $objectives .name .objectives -}}
{{- end -}}
{{- end -}}
{{- $own := dict
  "objectives" .Values.objectives
  "model_objectives" $objectives
  "prometheus" $prometheus
  "release" .Release.Name
  "namespace" .Release.Namespace
  "lease" (include "lengthwise.autoscaler" .)
  "pools" $pools
  "dry_run" .Values.autoscaler.dryRun
  "metrics_listen" "0.0.0.0:9090" -}}
{{- $tls := include "lengthwise.tlsConfig" . | fromYaml -}}
{{- $scraped := dict -}}
{{- if .Values.podMonitor.enabled -}}
{{- $interval := include "lengthwise.seconds" .Values.podMonitor.interval | float64 -}}
{{- $window := maxf 60 (mulf $interval 4) -}}
{{- $_ := set $scraped "prometheus" (dict "scrape_interval_seconds" $interval "window_seconds" $window) -}}
{{- end -}}
{{- toYaml (merge $own $tls .Values.autoscaler.config $scraped) -}}
{{- end -}}
