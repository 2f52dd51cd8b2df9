{{/* What all pods have in common. They satisfy the Pod Security level `restricted`. */}}

{{- define "lengthwise.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lengthwise.logArguments" -}}
- --log-level={{ .Values.logs.level }}
- --log-format={{ .Values.logs.format }}
{{- end -}}

{{- define "lengthwise.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Volumes and mounts of `root` and `model`; without a model, none for weights. */}}
{{- define "lengthwise.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- with .model }}
{{- include "lengthwise.modelVolume" . }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "lengthwise.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* Of the `part` of `root`: worker, autoscaler; else a router. */}}
{{- define "lengthwise.tlsSecret" -}}
{{- $tls := .root.Values.tls -}}
{{- $own := get (dict "worker" $tls.workerSecretName "autoscaler" $tls.autoscalerSecretName) (.part | default "router") -}}
{{- $own | default $tls.secretName -}}
{{- end -}}

{{- define "lengthwise.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/lengthwise/config, readOnly: true}
{{- with .model }}
{{- include "lengthwise.modelMount" . }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/lengthwise/tls, readOnly: true}
{{- end }}
{{- end -}}

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

{{/* Where a pod may run, for all kinds of pods. */}}
{{- define "lengthwise.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "lengthwise.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}
