package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// KindKubeControllersConfiguration says what the cluster's controllers do.
const KindKubeControllersConfiguration = "KubeControllersConfiguration"

// Values of the switches of a KubeControllersConfiguration.
const (
	ControllerEnabled  = "Enabled"
	ControllerDisabled = "Disabled"
)

// KubeControllersConfigurationSpec says what the cluster's controllers do.
type KubeControllersConfigurationSpec struct {
	// LogSeverityScreen is the least severity that is logged.
	//
	// +optional
	// +kubebuilder:validation:Enum="";None;Debug;Info;Warning;Error;Fatal;Panic
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// HealthChecks has the controllers answer probes.
	//
	// +optional
	// +kubebuilder:validation:Enum="";Enabled;Disabled
	HealthChecks string `json:"healthChecks,omitempty"`

	// EtcdV3CompactionPeriod is the time between two compactions of an etcd store.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	EtcdV3CompactionPeriod *metav1.Duration `json:"etcdV3CompactionPeriod,omitempty"`

	// PrometheusMetricsPort is the TCP port of the metrics; 0 for none.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	PrometheusMetricsPort *int `json:"prometheusMetricsPort,omitempty"`

	// DebugProfilePort is the TCP port of profiles; 0 for none.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	DebugProfilePort *int `json:"debugProfilePort,omitempty"`

	// Controllers are those that run.
	//
	// +optional
	Controllers ControllersConfig `json:"controllers,omitzero"`
}

// ControllersConfig has a part for each controller.
type ControllersConfig struct {
	// Node cleans up after nodes, and makes their host endpoints.
	//
	// +optional
	Node *NodeControllerConfig `json:"node,omitempty"`

	// Policy, WorkloadEndpoint, ServiceAccount and Namespace copy from Kubernetes into an etcd store.
	//
	// +optional
	Policy *PeriodicControllerConfig `json:"policy,omitempty"`
	// +optional
	WorkloadEndpoint *PeriodicControllerConfig `json:"workloadEndpoint,omitempty"`
	// +optional
	ServiceAccount *PeriodicControllerConfig `json:"serviceAccount,omitempty"`
	// +optional
	Namespace *PeriodicControllerConfig `json:"namespace,omitempty"`

	// LoadBalancer gives addresses to services.
	//
	// +optional
	LoadBalancer *LoadBalancerControllerConfig `json:"loadBalancer,omitempty"`

	// Migration renames resources of older releases.
	//
	// +optional
	Migration *MigrationControllerConfig `json:"migration,omitempty"`
}

// PeriodicControllerConfig is of a controller that has a period only.
type PeriodicControllerConfig struct {
	// ReconcilerPeriod is the time between two looks.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	ReconcilerPeriod *metav1.Duration `json:"reconcilerPeriod,omitempty"`
}

// LoadBalancerControllerConfig is about addresses of services.
type LoadBalancerControllerConfig struct {
	// AssignIPs says which services get addresses.
	//
	// +optional
	// +kubebuilder:validation:Enum="";AllServices;RequestedServicesOnly
	AssignIPs string `json:"assignIPs,omitempty"`
}

// MigrationControllerConfig is about resources of older releases.
type MigrationControllerConfig struct {
	// PolicyNameMigrator renames policies.
	//
	// +optional
	// +kubebuilder:validation:Enum="";Enabled;Disabled
	PolicyNameMigrator string `json:"policyNameMigrator,omitempty"`
}

// NodeControllerConfig is about nodes and what they leave.
type NodeControllerConfig struct {
	// ReconcilerPeriod is the time between two looks at the whole store; 5m when unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	ReconcilerPeriod *metav1.Duration `json:"reconcilerPeriod,omitempty"`

	// SyncLabels copies labels of Kubernetes' nodes to the Node records of an etcd store.
	//
	// +optional
	// +kubebuilder:validation:Enum="";Enabled;Disabled
	SyncLabels string `json:"syncLabels,omitempty"`

	// HostEndpoint is about the host endpoints that are made for nodes.
	//
	// +optional
	HostEndpoint *AutoHostEndpointConfig `json:"hostEndpoint,omitempty"`

	// LeakGracePeriod is how long something has to be without an owner before it goes; 15m when unset, 0 to let
	// addresses that nobody has be.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="want a duration of 0 or more such as 90s"
	LeakGracePeriod *metav1.Duration `json:"leakGracePeriod,omitempty"`
}

// AutoHostEndpointConfig is about the host endpoints that are made for nodes.
type AutoHostEndpointConfig struct {
	// AutoCreate makes host endpoints for every node; Disabled when unset.
	//
	// +optional
	// +kubebuilder:validation:Enum="";Enabled;Disabled
	AutoCreate string `json:"autoCreate,omitempty"`

	// CreateDefaultHostEndpoint makes the one for all interfaces; Enabled when unset.
	//
	// +optional
	// +kubebuilder:validation:Enum="";Enabled;Disabled
	CreateDefaultHostEndpoint string `json:"createDefaultHostEndpoint,omitempty"`

	// Templates describe further ones.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	Templates []HostEndpointTemplate `json:"templates,omitempty"`
}

// HostEndpointTemplate describes host endpoints for certain interfaces.
type HostEndpointTemplate struct {
	// GenerateName ends the names of the endpoints.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	GenerateName string `json:"generateName,omitempty"`

	// InterfaceCIDRs select the addresses of the endpoints: those of the node that are in one of these ranges; with interfacePattern,
	// those of the interface, all when empty.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	InterfaceCIDRs []rangeText `json:"interfaceCIDRs,omitempty"`

	// InterfacePattern is a regular expression that selects interfaces by their names, of which it need match a part only. Each
	// has an endpoint of its own. Without it there is one endpoint, of addresses.
	//
	// +optional
	InterfacePattern regexpText `json:"interfacePattern,omitempty"`

	// Labels of the endpoints, beside those of the node.
	//
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations of the endpoints.
	//
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`

	// NodeSelector selects the nodes.
	//
	// +optional
	NodeSelector selectorText `json:"nodeSelector,omitempty"`
}

// KubeControllersConfigurationStatus is what controllers say that they do.
type KubeControllersConfigurationStatus struct {
	// RunningConfig is in effect.
	//
	// +optional
	RunningConfig *KubeControllersConfigurationSpec `json:"runningConfig,omitempty"`

	// EnvironmentVars are the settings that come from the environment.
	//
	// +optional
	EnvironmentVars map[string]string `json:"environmentVars,omitempty"`

	// Conditions holds Accepted: whether all of this is honoured, and if not, why not and what to do.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// KubeControllersConfiguration says what the cluster's controllers do; its name is "default".
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=kubecontrollersconfigurations,singular=kubecontrollersconfiguration,shortName=kubecontrollersconfig,categories=calico;weft
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="the only KubeControllersConfiguration is named default"
type KubeControllersConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec KubeControllersConfigurationSpec `json:"spec,omitzero"`
	// +optional
	Status KubeControllersConfigurationStatus `json:"status,omitzero"`
}

// KubeControllersConfigurationList is a list of KubeControllersConfiguration.
//
// +kubebuilder:object:root=true
type KubeControllersConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []KubeControllersConfiguration `json:"items"`
}

func kubeControllersColumns() []Column {
	return []Column{
		column("HOSTENDPOINTS", func(c *KubeControllersConfiguration) string {
			if n := c.Spec.Controllers.Node; n != nil && n.HostEndpoint != nil && n.HostEndpoint.AutoCreate == ControllerEnabled {
				return ControllerEnabled
			}
			return ControllerDisabled
		}),
		column("GRACE", func(c *KubeControllersConfiguration) string {
			if n := c.Spec.Controllers.Node; n != nil && n.LeakGracePeriod != nil {
				return n.LeakGracePeriod.Duration.String()
			}
			return ""
		}),
	}
}

func validateKubeControllers(c *KubeControllersConfiguration) field.ErrorList {
	errs := validateControllersSpec(field.NewPath("spec"), &c.Spec)
	if running := c.Status.RunningConfig; running != nil {
		errs = append(errs, validateControllersSpec(field.NewPath("status", "runningConfig"), running)...)
	}
	return errs
}

func validateControllersSpec(path *field.Path, s *KubeControllersConfigurationSpec) field.ErrorList {
	r := felixRules{path: path}
	r.enum("logSeverityScreen", s.LogSeverityScreen, "None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic")
	r.enum("healthChecks", s.HealthChecks, ControllerEnabled, ControllerDisabled)
	r.duration("etcdV3CompactionPeriod", s.EtcdV3CompactionPeriod)
	r.number("prometheusMetricsPort", s.PrometheusMetricsPort, 0, 65535)
	r.number("debugProfilePort", s.DebugProfilePort, 0, 65535)
	c := path.Child("controllers")
	for _, p := range []struct {
		name string
		at   *PeriodicControllerConfig
	}{{"policy", s.Controllers.Policy}, {"workloadEndpoint", s.Controllers.WorkloadEndpoint},
		{"serviceAccount", s.Controllers.ServiceAccount}, {"namespace", s.Controllers.Namespace}} {
		if p.at != nil {
			r.path = c.Child(p.name)
			r.duration("reconcilerPeriod", p.at.ReconcilerPeriod)
		}
	}
	if l := s.Controllers.LoadBalancer; l != nil {
		r.path = c.Child("loadBalancer")
		r.enum("assignIPs", l.AssignIPs, "AllServices", "RequestedServicesOnly")
	}
	if m := s.Controllers.Migration; m != nil {
		r.path = c.Child("migration")
		r.enum("policyNameMigrator", m.PolicyNameMigrator, ControllerEnabled, ControllerDisabled)
	}
	if n := s.Controllers.Node; n != nil {
		r.path = c.Child("node")
		r.duration("reconcilerPeriod", n.ReconcilerPeriod)
		r.duration("leakGracePeriod", n.LeakGracePeriod)
		r.enum("syncLabels", n.SyncLabels, ControllerEnabled, ControllerDisabled)
		if h := n.HostEndpoint; h != nil {
			r.path = r.path.Child("hostEndpoint")
			r.enum("autoCreate", h.AutoCreate, ControllerEnabled, ControllerDisabled)
			r.enum("createDefaultHostEndpoint", h.CreateDefaultHostEndpoint, ControllerEnabled, ControllerDisabled)
			validateTemplates(&r, h.Templates)
		}
	}
	return r.errs
}

func validateTemplates(r *felixRules, templates []HostEndpointTemplate) {
	at := r.path.Child("templates")
	if len(templates) > 64 {
		r.add(field.ErrorList{field.TooMany(at, len(templates), 64)})
	}
	for i, t := range templates {
		if len(t.GenerateName) > 253 {
			r.add(invalid(at.Index(i).Child("generateName"), excerpt(t.GenerateName), "want at most 253 characters"))
		}
		if len(t.InterfaceCIDRs) > 64 {
			r.add(field.ErrorList{field.TooMany(at.Index(i).Child("interfaceCIDRs"), len(t.InterfaceCIDRs), 64)})
		}
		r.add(checkCIDRs(at.Index(i).Child("interfaceCIDRs"), t.InterfaceCIDRs, 0))
		if t.NodeSelector != "" {
			r.add(checkSelector(at.Index(i).Child("nodeSelector"), t.NodeSelector))
		}
		if t.InterfacePattern != "" {
			r.add(checkRegexp(at.Index(i).Child("interfacePattern"), t.InterfacePattern))
		}
	}
}
