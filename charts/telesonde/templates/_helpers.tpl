{{- define "telesonde.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "telesonde.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "telesonde.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "telesonde.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "telesonde.selector" -}}
app.kubernetes.io/name: {{ include "telesonde.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "telesonde.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "telesonde.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "telesonde.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "telesonde.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "telesonde.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "telesonde.priority" -}}
{{- with .Values.priorityClass -}}
{{- if .create -}}{{ default (include "telesonde.fullname" $) .name }}{{- else -}}{{ .name }}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Where on the node's BPF file system maps and programs are pinned that outlive the pod; empty where none do. */ -}}
{{- define "telesonde.pins" -}}
{{- $path := dig "integrations" "ebpf" "pin_path" "" .Values.config -}}
{{- if and $path (not (hasPrefix "/" $path)) -}}
{{- fail (printf "config.integrations.ebpf.pin_path is %s: it must be a path from the node's root, such as /sys/fs/bpf/telesonde" $path) -}}
{{- end -}}
{{- $path -}}
{{- end -}}

{{- /* The agent's configuration: what is in `config`, and what follows from the mounts of the pod. */ -}}
{{- define "telesonde.config" -}}
{{- if hasKey .Values.config "host" -}}
{{- fail "config.host is the chart's own, which mounts what it names: remove it from your values" -}}
{{- end -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.hubble.tlsSecret -}}
{{- $files := dict "hubble_tls_enabled" true "hubble_tls_cert" "/etc/hubble/tls.crt" "hubble_tls_key" "/etc/hubble/tls.key" "hubble_tls_ca" "/etc/hubble/ca.crt" -}}
{{- $config = mergeOverwrite (dict "integrations" (dict "ebpf" (dict "cilium" $files))) $config -}}
{{- end -}}
{{- with include "telesonde.pins" . -}}
{{- $_ := set $config.integrations.ebpf "pin_path" (printf "/host%s" .) -}}
{{- end -}}
{{- set $config "host" (dict "root" "/host") | toYaml -}}
{{- end -}}

{{- /* What the chosen collectors need of the pod, by collectors.yaml: capabilities, the host's pid namespace, Hubble. */ -}}
{{- define "telesonde.needs" -}}
{{- $config := include "telesonde.config" . | fromYaml -}}
{{- $ebpf := dig "integrations" "ebpf" (dict) $config -}}
{{- $capabilities := list "BPF" "PERFMON" -}}
{{- $hostPID := false -}}
{{- $chosen := list -}}
{{- range $name, $needs := .Files.Get "collectors.yaml" | fromYaml -}}
{{- $section := $config -}}
{{- range splitList "." $needs.section -}}
{{- $section = get $section . | default dict -}}
{{- end -}}
{{- $enabled := $needs.enabled -}}
{{- if hasKey $ebpf (get $needs "short" | default "-") -}}
{{- $enabled = get $ebpf $needs.short -}}
{{- end -}}
{{- if hasKey $section "enabled" -}}
{{- $enabled = $section.enabled -}}
{{- end -}}
{{- if and (ne (toString $enabled) "false") (ne (toString (dig "enabled" true $ebpf)) "false") -}}
{{- $chosen = append $chosen $name -}}
{{- $capabilities = concat $capabilities $needs.capabilities -}}
{{- $hostPID = or $hostPID $needs.hostPID -}}
{{- end -}}
{{- end -}}
{{- with .Values.security -}}
{{- if .oldRuntime -}}
{{- $capabilities = append (without $capabilities "BPF" "PERFMON") "SYS_ADMIN" -}}
{{- end -}}
{{- if .oldKernel -}}
{{- $capabilities = append $capabilities "SYS_RESOURCE" -}}
{{- end -}}
{{- $capabilities = concat $capabilities .extraCapabilities -}}
{{- end -}}
{{- if ne (toString .Values.hostPID) "auto" -}}
{{- $hostPID = .Values.hostPID -}}
{{- end -}}
{{- $cilium := dig "cilium" (dict) $ebpf -}}
{{- $mode := get $cilium "mode" | default "auto" -}}
{{- $address := get $cilium "hubble_node_address" | default "unix:///var/run/cilium/hubble.sock" -}}
{{- $hubble := has "hubble" $chosen -}}
{{- $socket := and $hubble (ne $mode "relay") (hasPrefix "unix://" $address) -}}
collectors: {{ $chosen | toJson }}
capabilities: {{ $capabilities | uniq | sortAlpha | toJson }}
hostPID: {{ $hostPID }}
hubbleDirectory: {{ ternary (dir (trimPrefix "unix://" $address)) "" $socket | quote }}
services: {{ dig "enrich" "kubernetes" "services" false $config }}
election: {{ and $hubble (ne $mode "node") (ne (toString (dig "kubernetes_enabled" true $cilium)) "false") }}
{{- end -}}

{{- /* The port of an address that something outside of the pod has to reach: (dict "key" KEY "listen" ADDRESS). */ -}}
{{- define "telesonde.port" -}}
{{- $host := regexReplaceAll ":[0-9]+$" .listen "" -}}
{{- if or (hasPrefix "127." $host) (has $host (list "localhost" "[::1]")) -}}
{{- fail (printf "%s is %s, which nobody outside of the pod reaches: set it to 0.0.0.0:PORT or [::]:PORT" .key .listen) -}}
{{- end -}}
{{- regexFind "[0-9]+$" .listen | required (printf "%s has no port: set it to 0.0.0.0:PORT or [::]:PORT" .key) -}}
{{- end -}}

{{- /* The port of the metrics; empty where they are not served. */ -}}
{{- define "telesonde.metrics" -}}
{{- $config := include "telesonde.config" . | fromYaml -}}
{{- if ne (toString (dig "exporters" "prometheus" "enabled" true $config)) "false" -}}
{{- include "telesonde.port" (dict "key" "config.exporters.prometheus.listen" "listen" (dig "exporters" "prometheus" "listen" "127.0.0.1:9464" $config)) -}}
{{- end -}}
{{- end -}}

{{- define "telesonde.health" -}}
{{- $config := include "telesonde.config" . | fromYaml -}}
{{- include "telesonde.port" (dict "key" "config.health.listen" "listen" (dig "health" "listen" "127.0.0.1:9465" $config)) -}}
{{- end -}}

{{- /* Whole seconds of the agent's shutdown_timeout, rounded up. */ -}}
{{- define "telesonde.shutdown" -}}
{{- $seconds := 1 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" (dig "shutdown_timeout" "5s" .Values.config) -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $number := regexFind "[0-9]+" . | int -}}
{{- if regexMatch "^h" $unit -}}
{{- $seconds = add $seconds (mul 3600 $number) -}}
{{- else if regexMatch "^m(in.*)?$" $unit -}}
{{- $seconds = add $seconds (mul 60 $number) -}}
{{- else if regexMatch "^s" $unit -}}
{{- $seconds = add $seconds $number -}}
{{- else if regexMatch "^m" $unit -}}
{{- $seconds = add $seconds (div $number 1000) -}}
{{- end -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- /* Where pods may run: what the user says, and on no virtual node. */ -}}
{{- define "telesonde.affinity" -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- if .Values.excludeVirtualNodes -}}
{{- $real := list (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet")) (dict "key" "eks.amazonaws.com/compute-type" "operator" "NotIn" "values" (list "fargate")) -}}
{{- $node := get $affinity "nodeAffinity" | default dict -}}
{{- $required := get $node "requiredDuringSchedulingIgnoredDuringExecution" | default dict -}}
{{- $terms := list -}}
{{- range get $required "nodeSelectorTerms" | default (list (dict)) -}}
{{- $terms = append $terms (merge (dict "matchExpressions" (concat (get . "matchExpressions" | default list) $real)) .) -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- if $affinity -}}
{{- toYaml $affinity -}}
{{- end -}}
{{- end -}}

{{- /* What a ServiceMonitor and a PodMonitor have in common: one endpoint. (dict "root" $ "monitor" VALUES "key" KEY) */ -}}
{{- define "telesonde.endpoint" -}}
{{- $ := .root -}}
{{- if not (include "telesonde.metrics" $) -}}
{{- fail (printf "%s.enabled is true, but config.exporters.prometheus.enabled is false: nothing would be scraped" .key) -}}
{{- end -}}
{{- $prometheus := dig "exporters" "prometheus" (dict) $.Values.config -}}
{{- $node := list "__meta_kubernetes_pod_node_name" -}}
{{- $endpoint := dict "port" "metrics" "path" (get $prometheus "path" | default "/metrics") "interval" .monitor.interval "scheme" (ternary "https" "http" (ne (dig "tls" "cert" "" $prometheus) "")) "relabelings" (list (dict "sourceLabels" $node "targetLabel" "node" "action" "replace") (dict "sourceLabels" $node "targetLabel" "instance" "action" "replace")) -}}
{{- mergeOverwrite $endpoint .monitor.endpoint | toYaml -}}
{{- end -}}
