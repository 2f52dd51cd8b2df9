{{/*
Settings of pods, put together from layers: a later one wins. Maps are merged; environments too, by the names
of variables; other lists are replaced.
*/}}

{{- define "lengthwise.layered" -}}
{{- $result := dict -}}
{{- range $given := . -}}
{{- $layer := deepCopy $given -}}
{{- with $layer.image -}}
{{- /* An image of its own is not the one whose digest an earlier layer names. */ -}}
{{- if and (or .repository .tag) (not .digest) -}}
{{- $_ := set . "digest" "" -}}
{{- end -}}
{{- end -}}
{{- $_ := set $layer "env" (concat ($result.env | default list) ($layer.env | default list)) -}}
{{- $result = mergeOverwrite $result $layer -}}
{{- end -}}
{{- toJson $result -}}
{{- end -}}

{{/* Of the `own` settings of a component of `root`. */}}
{{- define "lengthwise.settings" -}}
{{- include "lengthwise.layered" (list (dict "image" .root.Values.image) .root.Values.podDefaults .own) -}}
{{- end -}}

{{/*
Pools, with what `poolDefaults` says where they say nothing; their `weights` are all that is known of their model.
*/}}
{{- define "lengthwise.pools" -}}
{{- $models := include "lengthwise.models" . | fromJsonArray -}}
{{- $pools := list -}}
{{- $defaults := dict "lengthClass" "" "flexible" false "model" "" -}}
{{- range .Values.pools -}}
{{- $own := include "lengthwise.layered" (list $defaults $.Values.poolDefaults .) | fromJson -}}
{{- $pool := include "lengthwise.settings" (dict "root" $ "own" $own) | fromJson -}}
{{- $served := include "lengthwise.modelOfPool" (dict "models" $models "pool" $pool) | fromJson -}}
{{- $_ := set $pool "weights" (mergeOverwrite $served ($pool.weights | default dict)) -}}
{{- if and (not $pool.sharedMemory) (eq $pool.device "cuda") -}}
{{- $_ := set $pool "sharedMemory" "1Gi" -}}
{{- end -}}
{{- $pools = append $pools $pool -}}
{{- end -}}
{{- toJson $pools -}}
{{- end -}}

{{/* Of `models`, the one that a pool names, or the only one. */}}
{{- define "lengthwise.modelOfPool" -}}
{{- $names := list -}}
{{- $found := dict -}}
{{- range .models -}}
{{- $names = append $names .name -}}
{{- if or (eq .name $.pool.model) (and (not $.pool.model) (eq (len $.models) 1)) -}}
{{- $found = . -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "pool %s: model: got %q, expected one of %s" .pool.name .pool.model (join ", " $names)) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* A list of environment variables in which none is twice: the last counts, at the place of the first. */}}
{{- define "lengthwise.env" -}}
{{- $last := dict -}}
{{- range . -}}
{{- $_ := set $last .name . -}}
{{- end -}}
{{- $merged := list -}}
{{- range . -}}
{{- if hasKey $last .name -}}
{{- $merged = append $merged (get $last .name) -}}
{{- $_ := unset $last .name -}}
{{- end -}}
{{- end -}}
{{- with $merged -}}
env:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* A map without the keys whose values say null: what a cluster chooses itself. */}}
{{- define "lengthwise.withoutNulls" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $kept -}}
{{- end -}}
