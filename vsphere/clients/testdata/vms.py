"""Uses vCenter with pyvmomi: lists, clones, snapshots, reverts, powers and destroys VMs."""
import os
import ssl
from urllib.parse import urlparse

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

url = urlparse(os.environ["GOVC_URL"])
si = SmartConnect(
    host=url.hostname, port=url.port, user=os.environ["GOVC_USERNAME"], pwd=os.environ["GOVC_PASSWORD"],
    sslContext=ssl.create_default_context(cafile=os.environ["GOVC_TLS_CA_CERTS"]),
)
content = si.RetrieveContent()


def vms():
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    try:
        return {vm.name: vm for vm in view.view}
    finally:
        view.Destroy()


def same(got, want):
    assert got == want, "got %r, want %r" % (got, want)


same(sorted(vms()), ["DC0_C0_RP0_VM0", "DC0_C0_RP0_VM1", "DC0_H0_VM0", "DC0_H0_VM1"])
source = vms()["DC0_H0_VM0"]
same(source.runtime.powerState, "poweredOn")
WaitForTask(source.PowerOffVM_Task())

spec = vim.vm.CloneSpec(
    location=vim.vm.RelocateSpec(pool=source.resourcePool), powerOn=False, template=False,
    config=vim.vm.ConfigSpec(annotation="a clone"),
)
WaitForTask(source.CloneVM_Task(folder=source.parent, name="copy", spec=spec))
copy = vms()["copy"]
same(copy.config.annotation, "a clone")

WaitForTask(copy.CreateSnapshot_Task(name="clean", description="", memory=False, quiesce=False))
WaitForTask(copy.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="changed")))
WaitForTask(copy.PowerOnVM_Task())
same(copy.runtime.powerState, "poweredOn")
WaitForTask(copy.snapshot.currentSnapshot.RevertToSnapshot_Task())
same(copy.config.annotation, "a clone")
same(copy.runtime.powerState, "poweredOff")

try:
    WaitForTask(source.CloneVM_Task(folder=source.parent, name="copy", spec=spec))
    raise AssertionError("two VMs have one name")
except vim.fault.DuplicateName as e:
    same(e.name, "copy")

WaitForTask(copy.Destroy_Task())
assert "copy" not in vms()
try:
    copy.name
    raise AssertionError("a destroyed VM has a name")
except vmodl.fault.ManagedObjectNotFound:
    pass
Disconnect(si)
print("all is well")
