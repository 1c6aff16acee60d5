{{- define "tykpy.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* What every container of the chart is forbidden. */}}
{{- define "tykpy.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{/* Gateway and broker have one user, because the gateway gives the folders of its bundles mode 0700. */}}
{{- define "tykpy.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tykpy.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{/* Everybody may write to an emptyDir, and the broker refuses such a runtime folder: make one of its own in there. */}}
{{- define "tykpy.prepare" -}}
- name: prepare
  image: {{ include "tykpy.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [install, --directory, --mode=0700, /volume/private]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  securityContext: {{- include "tykpy.securityContext" . | nindent 4 }}
  volumeMounts:
    - {name: run, mountPath: /volume}
{{- end }}

{{/* The broker's container, without its volumes and what depends on the mode. */}}
{{- define "tykpy.container" -}}
name: tykpy
image: {{ include "tykpy.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [broker]
env:
  - {name: TYKPY_WORKERS, value: {{ .Values.workers | quote }}}
  - {name: TYKPY_GRACE, value: {{ .Values.grace | quote }}}
  - {name: TYKPY_EVENT_GRACE, value: {{ .Values.eventGrace | quote }}}
  - {name: TYKPY_METRICS, value: "tcp://0.0.0.0:{{ .Values.metricsPort }}"}
  {{- if eq .Values.mode "service" }}
  - {name: TYKPY_LISTEN, value: "tcp://0.0.0.0:{{ .Values.service.port }}"}
  {{- end }}
  {{- range $name, $value := .Values.env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- with .Values.envFromSecret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
ports:
  - {name: metrics, containerPort: {{ .Values.metricsPort }}}
  {{- if eq .Values.mode "service" }}
  - {name: grpc, containerPort: {{ .Values.service.port }}}
  {{- end }}
# Until the first worker is ready the other probes wait.
startupProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- include "tykpy.securityContext" . | nindent 2 }}
{{- end }}

{{- define "tykpy.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tykpy.podMetadata" -}}
labels: {{- include "tykpy.labels" (dict "name" .name "root" .root) | nindent 2 }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ .root.Values.metricsPort | quote }}
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Its name; in mode service also that of the DNS entry. */}}
{{- define "tykpy.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
