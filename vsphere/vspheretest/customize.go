package vspheretest

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A Customizer is an OS whose machines can be customized. Those of another take a customization
// specification, and fail to carry it out.
type Customizer interface {
	OS
	// Customize changes the disk of a machine that is about to boot.
	Customize(disk Disk, c Customization) error
}

// A Customization is what a guest is to become at its next boot.
type Customization struct {
	HostName    string // "" keeps it
	Domain      string
	DNSServers  []string
	DNSSuffixes []string
	NICs        []CustomNIC // in device order
}

// A CustomNIC says how one NIC gets its address: the one given, or by DHCP if that is zero.
type CustomNIC struct {
	Addr     netip.Prefix
	Gateways []netip.Addr
}

// CustomizeVMTask keeps the specification until the VM is powered on.
func (v *verbs) CustomizeVMTask(ctx *simulator.Context, req *types.CustomizeVM_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.CustomizeVM_TaskBody{Fault_: fault}
	}
	spec := deepCopy(req.Spec)
	ref, fault := v.s.submit(ctx, job{
		method: "CustomizeVM_Task", id: "VirtualMachine.customize", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			resting := false
			o.ctx.WithLock(m.home.host.Self, func() { resting = m.home.host.Runtime.InMaintenanceMode })
			switch p := m.power(o.ctx); {
			case resting:
				return nil, &types.InvalidState{}
			case p != poweredOff:
				return nil, &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: p}
			}
			if f := o.take(v.s.lat.Reconfigure); f != nil {
				return nil, f
			}
			return nil, v.s.customizeLater(o.ctx, m, &spec)
		},
	})
	if fault != nil {
		return &methods.CustomizeVM_TaskBody{Fault_: fault}
	}
	return &methods.CustomizeVM_TaskBody{Res: &types.CustomizeVM_TaskResponse{Returnval: ref}}
}

func (s *Server) customizeLater(ctx *simulator.Context, m *vm, spec *types.CustomizationSpec) types.BaseMethodFault {
	cfg := m.config(ctx)
	if cfg.Tools == nil {
		cfg.Tools = &types.ToolsConfigInfo{}
	}
	_, byCloudInit := spec.Identity.(*types.CustomizationCloudinitPrep)
	n := len(nics(cfg))
	switch {
	case cfg.Tools.PendingCustomization != "":
		return &types.CustomizationPending{}
	case n != len(spec.NicSettingMap) && !(byCloudInit && len(spec.NicSettingMap) == 0):
		return &types.NicSettingMismatch{NumberOfNicsInSpec: int32(len(spec.NicSettingMap)), NumberOfNicsInVM: int32(n)}
	}
	s.mu.Lock()
	m.custom = spec
	s.mu.Unlock()
	cfg.Tools.PendingCustomization = newUUID()
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	change(ctx, m.obj, func() { s.setConfig(m, cfg) })
	s.tellCustomized(ctx, m, types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_PENDING, "")
	return nil
}

func (s *Server) tellCustomized(ctx *simulator.Context, m *vm, status types.GuestInfoCustomizationStatus, problem string) {
	m.publish.Lock()
	defer m.publish.Unlock()
	change(ctx, m.obj, func() {
		g := deepCopy(m.obj.Guest)
		info := &types.GuestInfoCustomizationInfo{CustomizationStatus: string(status), ErrorMsg: problem}
		switch status {
		case types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_RUNNING:
			info.StartTime = now()
		case types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_SUCCEEDED, types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_FAILED:
			if old := g.CustomizationInfo; old != nil {
				info.StartTime = old.StartTime
			}
			info.EndTime = now()
		}
		g.CustomizationInfo = info
		m.obj.Guest = g
	})
}

// customizeNow carries out what is pending, before the guest of a VM that was off boots. What goes
// wrong with it is told by events, and the VM boots as it is.
func (s *Server) customizeNow(ctx *simulator.Context, m *vm) {
	s.mu.Lock()
	spec := m.custom
	m.custom = nil
	s.mu.Unlock()
	if spec == nil {
		return
	}
	event := types.CustomizationEvent{VmEvent: s.vmEvent(ctx, m)}
	s.post(ctx, &types.CustomizationStartedEvent{CustomizationEvent: event})
	s.tellCustomized(ctx, m, types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_RUNNING, "")
	cfg := m.config(ctx)
	cfg.Tools.PendingCustomization = ""
	problem := ""
	failed := types.CustomizationFailed{CustomizationEvent: event}
	if n := len(nics(cfg)); n != len(spec.NicSettingMap) && len(spec.NicSettingMap) > 0 {
		failed.Reason = "NicSettingMismatch"
		problem = failed.Reason
		s.post(ctx, &types.CustomizationNetworkSetupFailed{CustomizationFailed: failed})
	} else {
		for i, set := range spec.NicSettingMap {
			if set.MacAddress != "" {
				nic := nics(cfg)[i]
				nic.MacAddress, nic.AddressType = set.MacAddress, string(types.VirtualEthernetCardMacTypeManual)
			}
		}
		if err := s.customizeDisk(ctx, m, cfg, spec); err != nil {
			failed.Reason, problem = err.Error(), err.Error()
			s.post(ctx, &types.CustomizationUnknownFailure{CustomizationFailed: failed})
		}
	}
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	change(ctx, m.obj, func() { s.setConfig(m, cfg) })
	if problem != "" {
		s.tellCustomized(ctx, m, types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_FAILED, problem)
		return
	}
	s.tellCustomized(ctx, m, types.GuestInfoCustomizationStatusTOOLSDEPLOYPKG_SUCCEEDED, "")
	s.post(ctx, &types.CustomizationSucceeded{CustomizationEvent: event})
}

func (s *Server) customizeDisk(ctx *simulator.Context, m *vm, cfg *types.VirtualMachineConfigInfo, spec *types.CustomizationSpec) error {
	o, ok := s.OS.(Customizer)
	if !ok {
		return fmt.Errorf("%T is no Customizer", s.OS)
	}
	c := Customization{DNSServers: spec.GlobalIPSettings.DnsServerList, DNSSuffixes: spec.GlobalIPSettings.DnsSuffixList}
	switch id := spec.Identity.(type) {
	case *types.CustomizationLinuxPrep:
		c.HostName, c.Domain = s.customName(ctx, m, id.HostName), id.Domain
	case *types.CustomizationSysprep:
		c.HostName = s.customName(ctx, m, id.UserData.ComputerName)
	default:
		return fmt.Errorf("customization with %T is not simulated", id)
	}
	for _, set := range spec.NicSettingMap {
		var nic CustomNIC
		if ip, ok := set.Adapter.Ip.(*types.CustomizationFixedIp); ok {
			addr, err := netip.ParseAddr(ip.IpAddress)
			if err != nil {
				return fmt.Errorf("address of a NIC: %w", err)
			}
			bits := addr.BitLen()
			if mask := net.ParseIP(set.Adapter.SubnetMask).To4(); mask != nil {
				bits, _ = net.IPMask(mask).Size()
			}
			nic.Addr = netip.PrefixFrom(addr, bits)
		}
		for _, g := range set.Adapter.Gateway {
			if addr, err := netip.ParseAddr(g); err == nil {
				nic.Gateways = append(nic.Gateways, addr)
			}
		}
		if len(set.Adapter.DnsServerList) > 0 {
			c.DNSServers = set.Adapter.DnsServerList
		}
		c.NICs = append(c.NICs, nic)
	}
	s.mu.Lock()
	disk := m.disk
	s.mu.Unlock()
	if disk == nil {
		disk = s.OS.Install(s.hardware(cfg))
		s.mu.Lock()
		m.disk = disk
		s.mu.Unlock()
	}
	return o.Customize(disk, c)
}

// customName is the host name that a specification makes for the VM; generated ones have a number.
func (s *Server) customName(ctx *simulator.Context, m *vm, name types.BaseCustomizationName) string {
	number := func(base string) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.nname++
		return fmt.Sprintf("%s-%d", base, s.nname)
	}
	switch n := name.(type) {
	case *types.CustomizationFixedName:
		return n.Name
	case *types.CustomizationPrefixName:
		return number(n.Base)
	case *types.CustomizationCustomName:
		return number(n.Argument)
	case *types.CustomizationVirtualMachineName:
		vmName := ""
		m.look(ctx, func(o *mo.VirtualMachine) { vmName = o.Name })
		return number(strings.ToLower(vmName))
	}
	return ""
}
