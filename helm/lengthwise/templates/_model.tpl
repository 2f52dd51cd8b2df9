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
{{- else if eq .source "claim" -}}
{{- printf "/models/%s" .claim.path | trimSuffix "/" -}}
{{- else -}}
/models
{{- end -}}
{{- end -}}

{{- define "lengthwise.modelVolume" -}}
{{- if eq .source "claim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ .claim.name }}, readOnly: true}
{{- else if ne .source "demo" }}
- name: models
  emptyDir: {sizeLimit: {{ .volumeSize }}}
{{- end }}
{{- end -}}

{{- define "lengthwise.modelMount" -}}
{{- if ne .source "demo" }}
- {name: models, mountPath: /models, readOnly: {{ ne .source "hub" }}}
{{- end }}
{{- end -}}

{{- define "lengthwise.modelEnv" -}}
{{- if eq .source "hub" }}
- {name: HF_HOME, value: /models}
{{- with .hub.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of `root` and `model`. */}}
{{- define "lengthwise.modelInit" -}}
{{- if eq .model.source "download" }}
initContainers:
  - name: download
    image: {{ include "lengthwise.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
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
    env:
      - {name: URL, value: {{ .model.download.url | quote }}}
      {{- with .model.download.tokenSecret }}
      - name: TOKEN
        valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
      {{- end }}
    securityContext:
      {{- include "lengthwise.containerSecurity" . | nindent 6 }}
    resources:
      requests: {cpu: 100m, memory: 128Mi}
      limits: {memory: 512Mi}
    volumeMounts:
      - {name: models, mountPath: /models}
{{- end }}
{{- end -}}
