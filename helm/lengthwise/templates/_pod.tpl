{{/*
A Deployment's template of pods, for every kind of pods. `part` has

  root, component, pool   as labels have them
  settings                lengthwise.settings of these pods
  name, config            the ConfigMap, and its text
  models                  what it reads weights or tokenizers of; routers and workers
  seconds                 for the process to end in
  container, env, mounts, volumes  text: what is this component's alone
*/}}
{{- define "lengthwise.pod" -}}
{{- $settings := .settings -}}
metadata:
  labels:
    {{- include "lengthwise.podLabels" (merge (dict "extra" $settings.podLabels) .) | nindent 4 }}
  annotations:
    checksum/config: {{ .config | sha256sum }}
    {{- if .pool }}
    # What Prometheus labels its metrics with.
    lengthwise/model: {{ .pool.weights.name | quote }}
    {{- end }}
    {{- with $settings.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "lengthwise.serviceAccountName" . }}
  {{- /* Workers ask the API server for nothing. */}}
  automountServiceAccountToken: {{ ne .component "worker" }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .seconds }}
  {{- include "lengthwise.podSettings" . | nindent 2 }}
  {{- with include "lengthwise.initContainers" . | trim }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .component }}
      {{- include "lengthwise.containerSettings" . | nindent 6 }}
      {{- .container | nindent 6 }}
        - --log-level={{ .root.Values.logs.level }}
        - --log-format={{ .root.Values.logs.format }}
      {{- with include "lengthwise.podEnv" . }}
      {{- . | nindent 6 }}
      {{- end }}
      resources:
        {{- toYaml $settings.resources | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/lengthwise/config, readOnly: true}
        {{- include "lengthwise.mounts" . | nindent 8 }}
    {{- with $settings.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ .name }}}
    {{- include "lengthwise.volumes" . | nindent 4 }}
  {{- with $settings.topologySpread }}
  topologySpreadConstraints:
    {{- range . }}
    - {{- toYaml . | nindent 6 }}
      labelSelector:
        matchLabels:
          {{- include "lengthwise.selector" $ | nindent 10 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{/* Where a pod may run and as whom, for all kinds of pods and that of `helm test`. */}}
{{- define "lengthwise.podSettings" -}}
{{- $settings := .settings -}}
securityContext:
  {{- include "lengthwise.withoutNulls" $settings.podSecurityContext | nindent 2 }}
{{- with $settings.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- with get $settings $key }}
{{ toYaml (dict $key .) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "lengthwise.containerSettings" -}}
image: {{ include "lengthwise.image" (dict "root" .root "image" .settings.image) }}
imagePullPolicy: {{ .settings.image.pullPolicy }}
securityContext:
  {{- include "lengthwise.withoutNulls" .settings.securityContext | nindent 2 }}
{{- end -}}

{{- define "lengthwise.podEnv" -}}
{{- $own := .env | default "[]" | fromYamlArray -}}
{{- range include "lengthwise.modelsByVolume" (.models | default list) | fromJsonArray -}}
{{- $own = concat $own (include "lengthwise.modelEnv" . | fromYamlArray) -}}
{{- end -}}
{{- include "lengthwise.env" (concat $own (.settings.env | default list)) -}}
{{- with .settings.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "lengthwise.initContainers" -}}
{{- range .models -}}
{{- if eq .source "download" }}
{{ include "lengthwise.download" (merge (dict "model" .) $) -}}
{{- end -}}
{{- end -}}
{{- with .settings.initContainers }}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{- define "lengthwise.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- range include "lengthwise.modelsByVolume" (.models | default list) | fromJsonArray }}
{{- include "lengthwise.modelVolume" (dict "root" $.root "model" .) }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ include "lengthwise.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- with .volumes }}
{{ . }}
{{- end }}
{{- with .settings.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "lengthwise.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- range include "lengthwise.modelsByVolume" (.models | default list) | fromJsonArray }}
{{- include "lengthwise.modelMount" . }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/lengthwise/tls, readOnly: true}
{{- end }}
{{- with .mounts }}
{{ . }}
{{- end }}
{{- with .settings.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of the `component` of `root`. */}}
{{- define "lengthwise.tlsSecret" -}}
{{- $tls := .root.Values.tls -}}
{{- $own := get (dict "worker" $tls.workerSecretName "autoscaler" $tls.autoscalerSecretName) .component -}}
{{- $own | default $tls.secretName -}}
{{- end -}}

{{/*
A rollout that gets no further for so long has failed. Kubernetes' own 600 s are for finding a node and
pulling the image; weights are loaded after that, and where there is no room for a surge, the old pod ends before.
*/}}
{{- define "lengthwise.progressDeadline" -}}
progressDeadlineSeconds: {{ add 600 .startSeconds .drainSeconds }}
{{- end -}}
