{{/* Names, labels, images. */}}

{{- define "lengthwise.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end -}}

{{- define "lengthwise.fullname" -}}
{{- $name := include "lengthwise.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "lengthwise.workersService" -}}
{{ include "lengthwise.fullname" . }}-workers
{{- end -}}

{{- define "lengthwise.autoscaler" -}}
{{ include "lengthwise.fullname" . }}-autoscaler
{{- end -}}

{{/* What selects pods of `root`: all, those of a `component`, those of a `pool`. */}}
{{- define "lengthwise.selector" -}}
app.kubernetes.io/name: {{ include "lengthwise.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .pool }}
lengthwise/pool: {{ .name }}
{{- end }}
{{- end -}}

{{/*
Labels of pods of `root`, `component` and `pool`, with `extra` ones. No version is among them: a new one of
the chart restarts no pod that is otherwise as before.
*/}}
{{- define "lengthwise.podLabels" -}}
{{- $own := include "lengthwise.selector" . | fromYaml -}}
{{- with .pool -}}
{{- $_ := set $own "lengthwise/role" (ternary "flexible" .role .flexible) -}}
{{- end -}}
{{- $rest := dict
  "app.kubernetes.io/part-of" "lengthwise"
  "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- toYaml (merge $own (.extra | default dict) .root.Values.commonLabels $rest) -}}
{{- end -}}

{{/* Labels of objects: those, and which chart made them. */}}
{{- define "lengthwise.labels" -}}
{{- $versions := dict
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) -}}
{{- toYaml (merge (include "lengthwise.podLabels" . | fromYaml) $versions) -}}
{{- end -}}

{{/* Of `root` and the `image` of a kind of pods. */}}
{{- define "lengthwise.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Of `settings`, or `name` where they have the chart create one. */}}
{{- define "lengthwise.serviceAccountName" -}}
{{- $account := .settings.serviceAccount -}}
{{- $account.name | default (ternary .name "default" (not (not $account.create))) -}}
{{- end -}}

{{/* Of the component of `root` with `own` settings. */}}
{{- define "lengthwise.componentAccount" -}}
{{- $settings := include "lengthwise.settings" . | fromJson -}}
{{- include "lengthwise.serviceAccountName" (dict "settings" $settings "name" .name) -}}
{{- end -}}
