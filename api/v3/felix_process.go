package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// FelixProcessSpec holds the settings of the process: metrics, health, logs and the rest.
type FelixProcessSpec struct {
	// PrometheusMetricsEnabled serves metrics.
	PrometheusMetricsEnabled *bool `json:"prometheusMetricsEnabled,omitempty"`

	// PrometheusMetricsHost is the address metrics are served on; all when unset.
	PrometheusMetricsHost string `json:"prometheusMetricsHost,omitempty"`

	// PrometheusMetricsPort is the TCP port of metrics; 9091 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	PrometheusMetricsPort *int `json:"prometheusMetricsPort,omitempty"`

	// PrometheusMetricsCAFile is the CA file that clients of metrics are checked with.
	PrometheusMetricsCAFile string `json:"prometheusMetricsCAFile,omitempty"`

	// PrometheusMetricsCertFile is the certificate file of metrics.
	PrometheusMetricsCertFile string `json:"prometheusMetricsCertFile,omitempty"`

	// PrometheusMetricsKeyFile is the key file of metrics.
	PrometheusMetricsKeyFile string `json:"prometheusMetricsKeyFile,omitempty"`

	// PrometheusMetricsClientAuth says how clients of metrics are checked.
	PrometheusMetricsClientAuth string `json:"prometheusMetricsClientAuth,omitempty"`

	// PrometheusGoMetricsEnabled exports the Go runtime's metrics; true when unset.
	PrometheusGoMetricsEnabled *bool `json:"prometheusGoMetricsEnabled,omitempty"`

	// PrometheusProcessMetricsEnabled exports the process's metrics; true when unset.
	PrometheusProcessMetricsEnabled *bool `json:"prometheusProcessMetricsEnabled,omitempty"`

	// HealthEnabled serves health.
	HealthEnabled *bool `json:"healthEnabled,omitempty"`

	// HealthHost is the address health is served on; localhost when unset.
	HealthHost *string `json:"healthHost,omitempty"`

	// HealthPort is the TCP port of health; 9099 when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	HealthPort *int `json:"healthPort,omitempty"`

	// HealthTimeoutOverrides change how long a part may be silent.
	//
	// +kubebuilder:validation:MaxItems=64
	HealthTimeoutOverrides []HealthTimeoutOverride `json:"healthTimeoutOverrides,omitempty"`

	// GoGCThreshold is the garbage collector's target in percent; 40 when unset, -1 for none.
	//
	// +kubebuilder:validation:Minimum=-1
	GoGCThreshold *int `json:"goGCThreshold,omitempty"`

	// GoMemoryLimitMB is the memory limit of the Go runtime in MiB; -1 for none.
	//
	// +kubebuilder:validation:Minimum=-1
	GoMemoryLimitMB *int `json:"goMemoryLimitMB,omitempty"`

	// GoMaxProcs is the number of CPUs to use; -1 for the system's.
	//
	// +kubebuilder:validation:Minimum=-1
	GoMaxProcs *int `json:"goMaxProcs,omitempty"`

	// DataplaneWatchdogTimeout is the older form of healthTimeoutOverrides; 90s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	DataplaneWatchdogTimeout *metav1.Duration `json:"dataplaneWatchdogTimeout,omitempty"`

	// FlowLogsFlushInterval is the interval of flow log exports; 300s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	FlowLogsFlushInterval *metav1.Duration `json:"flowLogsFlushInterval,omitempty"`

	// FlowLogsGoldmaneServer is where flow logs are sent.
	FlowLogsGoldmaneServer string `json:"flowLogsGoldmaneServer,omitempty"`

	// FlowLogsLocalReporter serves flow logs on a local socket; Disabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	FlowLogsLocalReporter string `json:"flowLogsLocalReporter,omitempty"`

	// FlowLogsPolicyEvaluationMode says whether policy is evaluated for live flows; Continuous when unset.
	//
	// +kubebuilder:validation:Enum=None;Continuous
	FlowLogsPolicyEvaluationMode string `json:"flowLogsPolicyEvaluationMode,omitempty"`

	// FlowLogsCollectorDebugTrace logs the flow collector in full.
	FlowLogsCollectorDebugTrace *bool `json:"flowLogsCollectorDebugTrace,omitempty"`

	// PolicySyncPathPrefix is the folder of policy sockets for other processes.
	PolicySyncPathPrefix string `json:"policySyncPathPrefix,omitempty"`

	// EndpointStatusPathPrefix is the folder of endpoint status files; /var/run/calico when unset.
	EndpointStatusPathPrefix string `json:"endpointStatusPathPrefix,omitempty"`

	// UsageReportingEnabled is read; nothing is ever reported.
	UsageReportingEnabled *bool `json:"usageReportingEnabled,omitempty"`

	// UsageReportingInitialDelay goes with usageReportingEnabled.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	UsageReportingInitialDelay *metav1.Duration `json:"usageReportingInitialDelay,omitempty"`

	// UsageReportingInterval goes with usageReportingEnabled.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	UsageReportingInterval *metav1.Duration `json:"usageReportingInterval,omitempty"`

	// IstioAmbientMode works together with Istio's ambient mode; Disabled when unset.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	IstioAmbientMode string `json:"istioAmbientMode,omitempty"`

	// IstioDSCPMark is the DSCP value of traffic to Istio; 23 when unset.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^0*([0-9]|[1-5][0-9]|6[0-3])$|^([DdEe][Ff]|[Vv][Aa]|[Cc][Ss][0-7]|[Aa][Ff][1-4][1-3])$`
	// +kubebuilder:validation:XValidation:rule="self >= 0 && self <= 63 || self >= '0'",message="want 0 to 63, or a name such as AF11, CS1, EF"
	IstioDSCPMark *intstr.IntOrString `json:"istioDSCPMark,omitempty"`

	// LogFilePath is the log file; none for no file.
	LogFilePath string `json:"logFilePath,omitempty"`

	// LogSeverityFile is the least severity in the log file.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(None|Trace|Debug|Info|Warning|Error|Fatal)?$`
	LogSeverityFile string `json:"logSeverityFile,omitempty"`

	// LogSeverityScreen is the least severity on standard output; Info when unset.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(None|Trace|Debug|Info|Warning|Error|Fatal)?$`
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// LogSeveritySys is the least severity in syslog.
	//
	// +kubebuilder:validation:Pattern=`^(?i)(None|Trace|Debug|Info|Warning|Error|Fatal)?$`
	LogSeveritySys string `json:"logSeveritySys,omitempty"`

	// LogDebugFilenameRegex limits debug lines to source files.
	LogDebugFilenameRegex regexpText `json:"logDebugFilenameRegex,omitempty"`

	// FeatureDetectOverride overrules what was found of the kernel: "SNATFullyRandom=true,".
	//
	// +kubebuilder:validation:Pattern=`^([a-zA-Z0-9_-]+=(true|false|),)*([a-zA-Z0-9_-]+=(true|false|))?$`
	FeatureDetectOverride string `json:"featureDetectOverride,omitempty"`

	// FeatureGates turn previews on: "Name=value,".
	//
	// +kubebuilder:validation:Pattern=`^([a-zA-Z0-9_-]+=([^=,]+),)*([a-zA-Z0-9_-]+=([^=,]+))?$`
	FeatureGates string `json:"featureGates,omitempty"`

	// ReportingInterval is the interval of status reports; 30s when unset, 0 for none.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	ReportingInterval *metav1.Duration `json:"reportingInterval,omitempty"`

	// ReportingTTL is how long a status report is believed; 90s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	ReportingTTL *metav1.Duration `json:"reportingTTL,omitempty"`

	// EndpointReportingEnabled reports the state of endpoints.
	EndpointReportingEnabled *bool `json:"endpointReportingEnabled,omitempty"`

	// EndpointReportingDelay is the delay of those reports; 1s when unset.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	EndpointReportingDelay *metav1.Duration `json:"endpointReportingDelay,omitempty"`

	// MetadataAddr is the metadata server of OpenStack; none for none.
	MetadataAddr string `json:"metadataAddr,omitempty"`

	// MetadataPort is the port of the metadata server.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	MetadataPort *int `json:"metadataPort,omitempty"`

	// OpenstackRegion is the region of OpenStack.
	OpenstackRegion string `json:"openstackRegion,omitempty"`

	// UseInternalDataplaneDriver is read and has no effect.
	UseInternalDataplaneDriver *bool `json:"useInternalDataplaneDriver,omitempty"`

	// DataplaneDriver is read and has no effect.
	DataplaneDriver string `json:"dataplaneDriver,omitempty"`

	// SidecarAccelerationEnabled is read and has no effect.
	SidecarAccelerationEnabled *bool `json:"sidecarAccelerationEnabled,omitempty"`

	// WindowsManageFirewallRules is for Windows nodes.
	//
	// +kubebuilder:validation:Enum=Enabled;Disabled
	WindowsManageFirewallRules string `json:"windowsManageFirewallRules,omitempty"`

	// DebugHost is the address of the debug port; localhost when unset.
	DebugHost *string `json:"debugHost,omitempty"`

	// DebugPort is the debug port; none when unset.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	DebugPort *int `json:"debugPort,omitempty"`

	// DebugMemoryProfilePath is where memory profiles are written.
	DebugMemoryProfilePath string `json:"debugMemoryProfilePath,omitempty"`

	// DebugDisableLogDropping never drops log lines.
	DebugDisableLogDropping *bool `json:"debugDisableLogDropping,omitempty"`

	// DebugSimulateCalcGraphHangAfter is for tests.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	DebugSimulateCalcGraphHangAfter *metav1.Duration `json:"debugSimulateCalcGraphHangAfter,omitempty"`

	// DebugSimulateDataplaneHangAfter is for tests.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	DebugSimulateDataplaneHangAfter *metav1.Duration `json:"debugSimulateDataplaneHangAfter,omitempty"`

	// DebugSimulateDataplaneApplyDelay is for tests.
	//
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	DebugSimulateDataplaneApplyDelay *metav1.Duration `json:"debugSimulateDataplaneApplyDelay,omitempty"`
}

// HealthTimeoutOverride changes how long a part of the service may be silent before it counts as dead.
type HealthTimeoutOverride struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	Timeout metav1.Duration `json:"timeout"`
}
