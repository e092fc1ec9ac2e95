#!/bin/bash
# User VM 2: the second copy of the disk image, otherwise as User VM 1.
set -euo pipefail
VM_ID=2 exec /opt/acrn/launch_user_vm_id1.sh
