package v3

import (
	"maps"
	"math"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (r *felixRules) bpf(s *FelixBPFSpec) {
	r.enum("bpfAttachType", s.BPFAttachType, "Netkit", "TCX", "TC")
	r.fold("bpfLogLevel", s.BPFLogLevel, "Off", "Info", "Debug")
	r.fold("bpfConntrackLogLevel", s.BPFConntrackLogLevel, "Off", "Debug")
	r.regexp("bpfDataIfacePattern", s.BPFDataIfacePattern)
	r.regexp("bpfL3IfacePattern", s.BPFL3IfacePattern)
	r.regexp("bpfDisableGROForIfaces", s.BPFDisableGROForIfaces)
	r.enum("bpfConnectTimeLoadBalancing", s.BPFConnectTimeLoadBalancing, "TCP", "Enabled", "Disabled")
	r.enum("bpfHostNetworkedNATWithoutCTLB", s.BPFHostNetworkedNATWithoutCTLB, "Enabled", "Disabled")
	r.fold("bpfExternalServiceMode", s.BPFExternalServiceMode, "Tunnel", "DSR")
	r.cidrs("bpfDSROptoutCIDRs", s.BPFDSROptoutCIDRs, 0)
	r.cidrs("bpfExcludeCIDRsFromNAT", s.BPFExcludeCIDRsFromNAT, 0)
	r.number("bpfExtToServiceConnmark", s.BPFExtToServiceConnmark, 0, math.MaxUint32)
	r.duration("bpfKubeProxyMinSyncPeriod", s.BPFKubeProxyMinSyncPeriod)
	r.number("bpfKubeProxyHealthzPort", s.BPFKubeProxyHealthzPort, 0, 65535)
	r.ports("bpfPSNATPorts", s.BPFPSNATPorts)
	r.enum("bpfConntrackMode", s.BPFConntrackMode, "Auto", "Userspace", "BPFProgram")
	r.fold("bpfEnforceRPF", s.BPFEnforceRPF, "Disabled", "Strict", "Loose")
	r.enum("bpfRedirectToPeer", s.BPFRedirectToPeer, "Enabled", "Disabled", "L2Only")
	r.enum("bpfProfiling", s.BPFProfiling, "Enabled", "Disabled")
	r.enum("bpfJITHardening", s.BPFJITHardening, "Auto", "Strict")
	r.duration("bpfIPFragTimeout", s.BPFIPFragTimeout)
	if s.BPFForceTrackPacketsFromIfaces != nil {
		at := r.path.Child("bpfForceTrackPacketsFromIfaces")
		for i, v := range *s.BPFForceTrackPacketsFromIfaces {
			r.add(checkPattern(at.Index(i), v, `^[a-zA-Z0-9_.:-]{1,15}\+?$`, "an interface name, with + for the rest of it"))
		}
	}
	if s.BPFLogFilters != nil {
		for _, key := range slices.Sorted(maps.Keys(*s.BPFLogFilters)) {
			r.add(checkInterface(r.path.Child("bpfLogFilters").Key(key), key))
		}
	}
	r.conntrackTimeouts(s.BPFConntrackTimeouts)
}

func (r *felixRules) bpfMaps(s *FelixBPFSpec) {
	r.number("bpfMaglevMaxServices", s.BPFMaglevMaxServices, 1, math.MaxInt32)
	r.number("bpfMaglevMaxEndpointsPerService", s.BPFMaglevMaxEndpointsPerService, 1, 3000)
	for _, m := range []struct {
		name string
		size *int
	}{
		{"bpfMapSizeNATFrontend", s.BPFMapSizeNATFrontend}, {"bpfMapSizeNATBackend", s.BPFMapSizeNATBackend},
		{"bpfMapSizeNATAffinity", s.BPFMapSizeNATAffinity}, {"bpfMapSizeRoute", s.BPFMapSizeRoute},
		{"bpfMapSizeConntrack", s.BPFMapSizeConntrack}, {"bpfMapSizeConntrackCleanupQueue", s.BPFMapSizeConntrackCleanupQueue},
		{"bpfMapSizeIPSets", s.BPFMapSizeIPSets}, {"bpfMapSizeIfState", s.BPFMapSizeIfState},
		{"bpfExportBufferSizeMB", s.BPFExportBufferSizeMB},
	} {
		r.number(m.name, m.size, 1, math.MaxInt32)
	}
	r.number("bpfMapSizePerCpuConntrack", s.BPFMapSizePerCPUConntrack, 0, math.MaxInt32)
	r.fold("bpfMapSizeConntrackScaling", s.BPFMapSizeConntrackScaling, "Disabled", "DoubleIfFull")
}

func (r *felixRules) conntrackTimeouts(t *BPFConntrackTimeouts) {
	if t == nil {
		return
	}
	for _, f := range []struct {
		name string
		v    *string
	}{
		{"creationGracePeriod", t.CreationGracePeriod}, {"tcpSynSent", t.TCPSynSent}, {"tcpEstablished", t.TCPEstablished},
		{"tcpFinsSeen", t.TCPFinsSeen}, {"tcpResetSeen", t.TCPResetSeen}, {"udpTimeout", t.UDPTimeout},
		{"genericTimeout", t.GenericTimeout}, {"icmpTimeout", t.ICMPTimeout},
	} {
		if f.v == nil || *f.v == "Auto" {
			continue
		}
		if d, err := time.ParseDuration(*f.v); err != nil || d < 0 {
			r.add(invalid(r.path.Child("bpfConntrackTimeouts", f.name), excerpt(*f.v), "want Auto, or a duration such as 90s"))
		}
	}
}

func (r *felixRules) process(s *FelixProcessSpec) {
	r.number("prometheusMetricsPort", s.PrometheusMetricsPort, 0, 65535)
	r.number("healthPort", s.HealthPort, 0, 65535)
	r.number("metadataPort", s.MetadataPort, 0, 65535)
	r.number("debugPort", s.DebugPort, 0, 65535)
	for i, o := range s.HealthTimeoutOverrides {
		at := r.path.Child("healthTimeoutOverrides").Index(i)
		if o.Name == "" {
			r.add(field.ErrorList{field.Required(at.Child("name"), "the part whose timeout this is")})
		}
		if o.Timeout.Duration < 0 {
			r.add(invalid(at.Child("timeout"), o.Timeout.Duration.String(), "want a duration of 0 or more such as 90s"))
		}
	}
	r.number("goGCThreshold", s.GoGCThreshold, -1, math.MaxInt32)
	r.number("goMemoryLimitMB", s.GoMemoryLimitMB, -1, math.MaxInt32)
	r.number("goMaxProcs", s.GoMaxProcs, -1, math.MaxInt32)
	r.duration("dataplaneWatchdogTimeout", s.DataplaneWatchdogTimeout)
	r.duration("flowLogsFlushInterval", s.FlowLogsFlushInterval)
	r.duration("usageReportingInitialDelay", s.UsageReportingInitialDelay)
	r.duration("usageReportingInterval", s.UsageReportingInterval)
	r.duration("reportingInterval", s.ReportingInterval)
	r.duration("reportingTTL", s.ReportingTTL)
	r.duration("endpointReportingDelay", s.EndpointReportingDelay)
	r.duration("debugSimulateCalcGraphHangAfter", s.DebugSimulateCalcGraphHangAfter)
	r.duration("debugSimulateDataplaneHangAfter", s.DebugSimulateDataplaneHangAfter)
	r.duration("debugSimulateDataplaneApplyDelay", s.DebugSimulateDataplaneApplyDelay)
	r.enum("flowLogsLocalReporter", s.FlowLogsLocalReporter, "Enabled", "Disabled")
	r.enum("flowLogsPolicyEvaluationMode", s.FlowLogsPolicyEvaluationMode, "None", "Continuous")
	r.enum("istioAmbientMode", s.IstioAmbientMode, "Enabled", "Disabled")
	r.enum("windowsManageFirewallRules", s.WindowsManageFirewallRules, "Enabled", "Disabled")
	if s.IstioDSCPMark != nil {
		r.add(checkDSCP(r.path.Child("istioDSCPMark"), *s.IstioDSCPMark))
	}
}

func (r *felixRules) logs(s *FelixProcessSpec) {
	for _, l := range []struct{ name, v string }{
		{"logSeverityFile", s.LogSeverityFile}, {"logSeverityScreen", s.LogSeverityScreen}, {"logSeveritySys", s.LogSeveritySys},
	} {
		r.fold(l.name, l.v, "None", "Trace", "Debug", "Info", "Warning", "Error", "Fatal")
	}
	r.regexp("logDebugFilenameRegex", s.LogDebugFilenameRegex)
	r.pattern("featureDetectOverride", s.FeatureDetectOverride, `^([a-zA-Z0-9_-]+=(true|false|),)*([a-zA-Z0-9_-]+=(true|false|))?$`,
		"Name=true, Name=false or Name=, with commas between")
	r.pattern("featureGates", s.FeatureGates, `^([a-zA-Z0-9_-]+=([^=,]+),)*([a-zA-Z0-9_-]+=([^=,]+))?$`, "Name=value, with commas between")
}
