{{/*
What is served, and where it comes from: the same for routers, which read tokenizers, and for workers, unless
their pool has weights of its own.
*/}}

{{/*
All models: those of `models`, which say what differs from `model`, or `model` alone. Each with its objectives,
and the volume and folder that a pod finds its files in.
*/}}
{{- define "lengthwise.models" -}}
{{- $models := list -}}
{{- range .Values.models -}}
{{- $models = append $models (mergeOverwrite (deepCopy (omit $.Values.model "name")) (deepCopy .)) -}}
{{- else -}}
{{- $models = list (deepCopy .Values.model) -}}
{{- end -}}
{{- range $models -}}
{{- $_ := set . "name" (include "lengthwise.modelName" .) -}}
{{- $_ := set . "objectives" (mergeOverwrite (deepCopy $.Values.objectives) (.objectives | default dict)) -}}
{{- $_ := set . "volume" "models" -}}
{{- $_ := set . "mount" "/models" -}}
{{- end -}}
{{- toJson $models -}}
{{- end -}}

{{/* The same, as a pod that has all of them finds their files: what the hub sends lies together. */}}
{{- define "lengthwise.modelsTogether" -}}
{{- $models := include "lengthwise.models" . | fromJsonArray -}}
{{- if gt (len $models) 1 -}}
{{- range $index, $model := $models -}}
{{- if ne .source "hub" -}}
{{- $_ := set . "volume" (printf "models-%d" $index) -}}
{{- $_ := set . "mount" (printf "/checkpoints/%d" $index) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $models -}}
{{- end -}}

{{/* Of models in one pod, the first of each volume. */}}
{{- define "lengthwise.modelsByVolume" -}}
{{- $found := dict -}}
{{- $models := list -}}
{{- range . -}}
{{- if not (hasKey $found .volume) -}}
{{- $_ := set $found .volume true -}}
{{- $models = append $models . -}}
{{- end -}}
{{- end -}}
{{- toJson $models -}}
{{- end -}}

{{/* Of a model. */}}
{{- define "lengthwise.modelName" -}}
{{- if .name -}}
{{- .name -}}
{{- else if eq .source "demo" -}}
demo
{{- else if eq .source "hub" -}}
{{- splitList "/" .hub.id | last | trimSuffix ".gguf" -}}
{{- else -}}
{{- fail (printf "model.name: expected what clients ask for, where model.source is %s" .source) -}}
{{- end -}}
{{- end -}}

{{- define "lengthwise.modelPath" -}}
{{- if eq .source "demo" -}}
/opt/lengthwise/demo_model
{{- else if eq .source "hub" -}}
{{- .hub.id -}}
{{- with .hub.revision -}}
@{{ . }}
{{- end -}}
{{- else if eq .source "claim" -}}
{{- printf "%s/%s" .mount .claim.path | trimSuffix "/" -}}
{{- else -}}
{{- .mount -}}
{{- end -}}
{{- end -}}

{{/* The claim that keeps what the hub sent, so that a new pod need not download it again. */}}
{{- define "lengthwise.persistentClaim" -}}
{{- .Values.persistence.existingClaim | default (printf "%s-models" (include "lengthwise.fullname" .)) -}}
{{- end -}}

{{/* Of `root` and `model`. */}}
{{- define "lengthwise.modelVolume" -}}
{{- if eq .model.source "claim" }}
- name: {{ .model.volume }}
  persistentVolumeClaim: {claimName: {{ .model.claim.name }}, readOnly: true}
{{- else if and (eq .model.source "hub") .root.Values.persistence.enabled }}
- name: {{ .model.volume }}
  persistentVolumeClaim: {claimName: {{ include "lengthwise.persistentClaim" .root }}}
{{- else if ne .model.source "demo" }}
- name: {{ .model.volume }}
  emptyDir: {sizeLimit: {{ .model.volumeSize }}}
{{- end }}
{{- end -}}

{{- define "lengthwise.modelMount" -}}
{{- if ne .source "demo" }}
- {name: {{ .volume }}, mountPath: {{ .mount }}, readOnly: {{ ne .source "hub" }}}
{{- end }}
{{- end -}}

{{- define "lengthwise.modelEnv" -}}
{{- if eq .source "hub" -}}
- {name: HF_HOME, value: /models}
{{- with .hub.endpoint }}
- {name: HF_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with .hub.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "lengthwise.downloadEnv" -}}
- {name: URL, value: {{ .download.url | quote }}}
{{- with .download.tokenSecret }}
- name: TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- end -}}

{{/* An init container for `model`, of what lengthwise.pod is given: proxies and authorities are those of its pod. */}}
{{- define "lengthwise.download" -}}
- name: {{ .model.volume | replace "models" "download" }}
  {{- include "lengthwise.containerSettings" . | nindent 2 }}
  command: [python3, -c]
  args:
    - |
      import os, tarfile, urllib.request
      request = urllib.request.Request(os.environ["URL"])
      if token := os.environ.get("TOKEN"):
          request.add_unredirected_header("Authorization", f"Bearer {token}")
      # Python 3.11.4 brought the filter; without it, too, /models is all that can be written to.
      safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
      with urllib.request.urlopen(request, timeout=60) as response:
          with tarfile.open(fileobj=response, mode="r|*") as archive:
              archive.extractall("/models", **safely)
  {{- include "lengthwise.env" (concat (.settings.env | default list) (include "lengthwise.downloadEnv" .model | fromYamlArray)) | nindent 2 }}
  {{- with .settings.envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    requests: {cpu: 100m, memory: 128Mi}
    limits: {memory: 512Mi}
  volumeMounts:
    - {name: {{ .model.volume }}, mountPath: /models}
    {{- with .settings.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
