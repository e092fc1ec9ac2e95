#!/bin/bash
# A User VM with the kernel of Debian's linux-image-amd64 package as it comes; the
# RAM disk loads that kernel's modules and hands over to the root on the disk.
# The disk with this kernel is attached by `cargo xtask demo --debian-guest`.
set -euo pipefail
export VM_ID=${VM_ID:-1}
export KERNEL=/debian/vmlinuz RAMDISK=/debian/initrd.cpio MEMORY_MIB=${MEMORY_MIB:-512}
exec /opt/acrn/launch_user_vm_id1.sh
