{{/* Contradictions between values that the schema cannot put into one clear line. */}}
{{- define "lengthwise.check" -}}
{{- include "lengthwise.checkModels" . -}}
{{- $pools := include "lengthwise.pools" . | fromJsonArray -}}
{{- include "lengthwise.checkLabels" (dict "place" "commonLabels" "labels" .Values.commonLabels) -}}
{{- range $component := list "podDefaults" "router" "poolDefaults" "autoscaler" -}}
{{- $own := get $.Values $component -}}
{{- include "lengthwise.checkLabels" (dict "place" (printf "%s.podLabels" $component) "labels" $own.podLabels) -}}
{{- end -}}
{{- range $component := list "router" "autoscaler" -}}
{{- $settings := include "lengthwise.settings" (dict "root" $ "own" (get $.Values $component)) | fromJson -}}
{{- include "lengthwise.checkMounts" (dict "place" $component "settings" $settings) -}}
{{- end -}}
{{- $names := dict -}}
{{- range $pools -}}
{{- if hasKey $names .name -}}
{{- fail (printf "pools: got two pools named %s, expected different names" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- include "lengthwise.checkPool" . -}}
{{- include "lengthwise.checkWeights" (dict "place" (printf "pool %s: weights." .name) "weights" .weights) -}}
{{- include "lengthwise.checkLabels" (dict "place" (printf "pool %s: podLabels" .name) "labels" .podLabels) -}}
{{- include "lengthwise.checkMounts" (dict "place" (printf "pool %s" .name) "settings" .) -}}
{{- end -}}
{{- include "lengthwise.checkRoles" (dict "root" . "pools" $pools) -}}
{{- include "lengthwise.checkAutoscaler" (dict "root" . "pools" $pools) -}}
{{- include "lengthwise.checkPersistence" (dict "root" . "pools" $pools) -}}
{{- include "lengthwise.checkEntry" . -}}
{{- end -}}

{{- define "lengthwise.checkPool" -}}
{{- $pool := printf "pool %s" .name -}}
{{- if and .lengthClass (eq .role "decode") -}}
{{- fail (printf "%s: got lengthClass %s, expected none: decode workers take requests of every length" $pool .lengthClass) -}}
{{- end -}}
{{- if and .lengthClass .flexible -}}
{{- fail (printf "%s: got lengthClass %s and flexible, expected one of them: a flexible worker takes every length" $pool .lengthClass) -}}
{{- end -}}
{{- with .autoscale -}}
{{- if gt (int .min) (int .max) -}}
{{- fail (printf "%s: got autoscale.min %d above autoscale.max %d" $pool (int .min) (int .max)) -}}
{{- end -}}
{{- end -}}
{{- if and .autoscale.enabled (kindIs "invalid" .replicas) -}}
{{- fail (printf "%s: got autoscale.enabled and no replicas, expected how many there are at first" $pool) -}}
{{- end -}}
{{- if and .autoscale.enabled (or (lt (int .replicas) (int .autoscale.min)) (gt (int .replicas) (int .autoscale.max))) -}}
{{- fail (printf "%s: got replicas %d, expected autoscale.min %d to autoscale.max %d: it begins with them" $pool (int .replicas) (int .autoscale.min) (int .autoscale.max)) -}}
{{- end -}}
{{- end -}}

{{/* Names tell models apart, and routers have one environment for all that the hub sends them. */}}
{{- define "lengthwise.checkModels" -}}
{{- $models := include "lengthwise.models" . | fromJsonArray -}}
{{- $names := dict -}}
{{- $hub := dict -}}
{{- range $models -}}
{{- if hasKey $names .name -}}
{{- fail (printf "models: got two models named %s, expected different names" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- include "lengthwise.checkWeights" (dict "place" (printf "model %s: " .name) "weights" .) -}}
{{- if eq .source "hub" -}}
{{- $now := dict "endpoint" .hub.endpoint "tokenSecret" .hub.tokenSecret -}}
{{- if and $hub (ne (toJson $hub) (toJson $now)) -}}
{{- fail (printf "model %s: hub: got endpoint %q and tokenSecret %q, expected those of the other models: routers read all of them" .name .hub.endpoint .hub.tokenSecret) -}}
{{- end -}}
{{- $hub = $now -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* As the schema demands of `model`, of what a pool or one of several models says otherwise. */}}
{{- define "lengthwise.checkWeights" -}}
{{- $place := .place -}}
{{- $model := .weights -}}
{{- if and (eq $model.source "claim") (not $model.claim.name) -}}
{{- fail (printf "%sclaim.name: got none, expected a PersistentVolumeClaim's: source is claim" $place) -}}
{{- else if and (eq $model.source "hub") (not (regexMatch "^[^/ ]+/[^/ ]+(/[^ ]+[.]gguf)?$" $model.hub.id)) -}}
{{- fail (printf "%shub.id: got %q, expected OWNER/NAME: source is hub" $place $model.hub.id) -}}
{{- else if and (eq $model.source "download") (not (regexMatch "^https?://" $model.download.url)) -}}
{{- fail (printf "%sdownload.url: got %q, expected http:// or https://: source is download" $place $model.download.url) -}}
{{- end -}}
{{- end -}}

{{/*
A role has workers where a pool has replicas, or is given them as requests arrive, or where something else
than this chart says how many there are.
*/}}
{{- define "lengthwise.checkRoles" -}}
{{- $staffed := dict -}}
{{- range .pools -}}
{{- if or (kindIs "invalid" .replicas) (gt (int .replicas) 0) .autoscale.enabled -}}
{{- $_ := set $staffed (printf "%s %s" .role .weights.name) true -}}
{{- end -}}
{{- end -}}
{{- $local := dig "local_prefill" true .root.Values.router.config -}}
{{- $models := include "lengthwise.models" .root | fromJsonArray -}}
{{- range $models -}}
{{- $of := ternary "" (printf " for model %s" .name) (eq (len $models) 1) -}}
{{- if not (hasKey $staffed (printf "decode %s" .name)) -}}
{{- fail (printf "pools: got no replica of role decode%s, expected at least one, or autoscale.enabled: every request needs it" $of) -}}
{{- end -}}
{{- if and (not $local) (not (hasKey $staffed (printf "prefill %s" .name))) -}}
{{- fail (printf "pools: got no replica of role prefill%s, expected at least one: router.config.local_prefill is false, so that decode workers compute no prompts" $of) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "lengthwise.checkAutoscaler" -}}
{{- $autoscaler := .root.Values.autoscaler -}}
{{- $sized := list -}}
{{- range .pools -}}
{{- if .autoscale.enabled -}}
{{- $sized = append $sized .name -}}
{{- end -}}
{{- end -}}
{{- if and $sized (not $autoscaler.enabled) -}}
{{- fail (printf "pool %s: got autoscale.enabled, expected autoscaler.enabled too: nothing would scale it" (first $sized)) -}}
{{- end -}}
{{- if and $autoscaler.enabled (not $sized) -}}
{{- fail "autoscaler.enabled: got no pool with autoscale.enabled, expected at least one" -}}
{{- end -}}
{{- if and $autoscaler.enabled (not $autoscaler.prometheus.url) -}}
{{- fail "autoscaler.prometheus.url: got none, expected http://HOST:PORT: the autoscaler decides by what Prometheus knows" -}}
{{- end -}}
{{- end -}}

{{/* Labels that objects are found by are the chart's. */}}
{{- define "lengthwise.checkLabels" -}}
{{- $place := .place -}}
{{- range $label, $_ := .labels -}}
{{- if or (hasPrefix "lengthwise/" $label) (has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component")) -}}
{{- fail (printf "%s: got %s, expected other labels: pods are found by this one (nameOverride changes app.kubernetes.io/name)" $place $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Each extra mount is of a volume that is there. */}}
{{- define "lengthwise.checkMounts" -}}
{{- $place := .place -}}
{{- $own := list "tmp" "config" "models" "tls" "shared-memory" "client-tls" "prometheus" -}}
{{- $names := $own -}}
{{- range .settings.extraVolumes -}}
{{- if or (has .name $own) (regexMatch "^models-[0-9]+$" .name) -}}
{{- fail (printf "%s: extraVolumes: got a volume named %s, expected another name: the chart has one of this" $place .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range .settings.extraVolumeMounts -}}
{{- if not (has .name $names) -}}
{{- fail (printf "%s: extraVolumeMounts: got %s, expected the name of one of extraVolumes" $place .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What is kept in the claim is what pods download from the hub. */}}
{{- define "lengthwise.checkPersistence" -}}
{{- if .root.Values.persistence.enabled -}}
{{- $sources := list -}}
{{- range concat (include "lengthwise.models" .root | fromJsonArray) (.pools) -}}
{{- $sources = append $sources (.weights | default .).source -}}
{{- end -}}
{{- if not (has "hub" $sources) -}}
{{- fail (printf "persistence.enabled: got model.source %s, expected hub: what is kept is what pods download from it" (first $sources)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The ways in: Service, Ingresses and HTTPRoute. */}}
{{- define "lengthwise.checkEntry" -}}
{{- $service := .Values.service -}}
{{- if and .Values.http.enabled (eq (int $service.port) (int .Values.http.port)) -}}
{{- fail (printf "http.port: got %d, which is service.port too, expected another" (int .Values.http.port)) -}}
{{- end -}}
{{- range $kind := list "ingress" "route" -}}
{{- if and (get $.Values.http $kind).enabled (not $.Values.http.enabled) -}}
{{- fail (printf "http.%s.enabled: got true and http.enabled false, expected true: routers do not listen" $kind) -}}
{{- end -}}
{{- end -}}
{{- if and $service.loadBalancerClass (ne $service.type "LoadBalancer") -}}
{{- fail (printf "service.loadBalancerClass: got %s and service.type %s, expected LoadBalancer" $service.loadBalancerClass $service.type) -}}
{{- end -}}
{{- end -}}
