{{/*
Where the model comes from: the same for routers, which read its tokenizer, and for workers, unless their
pool says otherwise. All but the name are given the `model` in question.
*/}}

{{- define "lengthwise.modelName" -}}
{{- $model := .Values.model -}}
{{- if $model.name -}}
{{- $model.name -}}
{{- else if eq $model.source "demo" -}}
demo
{{- else if eq $model.source "hub" -}}
{{- splitList "/" $model.hub.id | last -}}
{{- else -}}
{{- fail (printf "model.name: expected what clients ask for, where model.source is %s" $model.source) -}}
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
{{- printf "/models/%s" .claim.path | trimSuffix "/" -}}
{{- else -}}
/models
{{- end -}}
{{- end -}}

{{/* The claim that keeps what the hub sent, so that a new pod need not download it again. */}}
{{- define "lengthwise.persistentClaim" -}}
{{- .Values.persistence.existingClaim | default (printf "%s-models" (include "lengthwise.fullname" .)) -}}
{{- end -}}

{{/* Of `root` and `model`. */}}
{{- define "lengthwise.modelVolume" -}}
{{- if eq .model.source "claim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ .model.claim.name }}, readOnly: true}
{{- else if and (eq .model.source "hub") .root.Values.persistence.enabled }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "lengthwise.persistentClaim" .root }}}
{{- else if ne .model.source "demo" }}
- name: models
  emptyDir: {sizeLimit: {{ .model.volumeSize }}}
{{- end }}
{{- end -}}

{{- define "lengthwise.modelMount" -}}
{{- if ne .source "demo" }}
- {name: models, mountPath: /models, readOnly: {{ ne .source "hub" }}}
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

{{/* An init container, of what lengthwise.pod is given: proxies and authorities are those of its pod. */}}
{{- define "lengthwise.download" -}}
- name: download
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
    - {name: models, mountPath: /models}
    {{- with .settings.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
