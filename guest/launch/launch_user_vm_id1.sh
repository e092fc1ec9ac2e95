#!/bin/bash
# Starts a post-launched User VM and stays until it has powered off.
#
# Everything that a second VM needs to be different comes from the environment
# (VM_ID, VM_NAME, KERNEL, RAMDISK, DISK, MEMORY_MIB, CPU_AFFINITY, BOOTARGS, CONSOLE,
# LIFE, DM_OPTIONS), so launch_user_vm_id2.sh is this script with other values. Whatever the script
# changes in the Service VM (TAP device, reserved huge pages) is put back on
# every way out. Exit status: 1 for a precondition that is not met, otherwise
# that of acrn-dm.
set -euo pipefail

vm_id=${VM_ID:-1}
vm_name=${VM_NAME:-POST_STD_VM${vm_id}}
kernel=${KERNEL:-/data/bzImage}
ramdisk=${RAMDISK:-}
disk=${DISK:-/data/user_vm${vm_id}.img}
memory_mib=${MEMORY_MIB:-256}
cpu_affinity=${CPU_AFFINITY:-}
bridge=${BRIDGE:-acrn-br0}
tap=${TAP:-tap_vm${vm_id}}
console=${CONSOLE:-hv}
root=${ROOT_DEVICE:-/dev/vda}
bootargs=${BOOTARGS:-root=${root} rw console=ttyS0 tsc=reliable vm_name=user-vm${vm_id} vm_ip=192.168.100.$((vm_id + 1))}
dm=${ACRN_DM:-acrn-dm}
# Where COM2 leads, on which the guest's life-cycle manager speaks: the words of acrn-dm -l, or
# "vuart" for a line of the hypervisor's. Empty for no life-cycle manager.
life=${LIFE:-}
[ -z "$life" ] || bootargs="$bootargs life_mngr=1"
# Further words for acrn-dm, split at blanks.
read -r -a dm_options <<<"${DM_OPTIONS:-}"

hugepages=/sys/kernel/mm/hugepages/hugepages-2048kB
hugepages_added=0
tap_made=
dm_pid=

fail() {
    echo "launch_user_vm: $*" >&2
    exit 1
}

check_preconditions() {
    [ "$(id -u)" -eq 0 ] || fail "must run as root"
    command -v "$dm" >/dev/null || fail "$dm is not installed"
    [ -c /dev/acrn_hsm ] || fail "/dev/acrn_hsm is missing: this kernel is not the Service VM of ACRN, or lacks CONFIG_ACRN_HSM"
    [ -s "$kernel" ] || fail "the kernel $kernel is missing or empty"
    [ -z "$ramdisk" ] || [ -s "$ramdisk" ] || fail "the RAM disk $ramdisk is missing or empty"
    [ -e "$disk" ] || fail "the disk image $disk is missing: is the data disk mounted on /data?"
}

# The local APIC ids to run on: two where the machine has two CPUs.
choose_cpus() {
    [ -z "$cpu_affinity" ] || return 0
    if [ "$(nproc)" -ge 2 ]; then cpu_affinity=0,1; else cpu_affinity=0; fi
}

# Guest RAM is taken from 2 MiB pages; reserve those that are not free yet.
reserve_hugepages() {
    [ -d "$hugepages" ] || return 0
    local free need total
    free=$(cat "$hugepages/free_hugepages")
    need=$((memory_mib / 2 + 8))
    [ "$free" -lt "$need" ] || return 0
    total=$(cat "$hugepages/nr_hugepages")
    hugepages_added=$((need - free))
    echo $((total + hugepages_added)) >"$hugepages/nr_hugepages"
    free=$(cat "$hugepages/free_hugepages")
    [ "$free" -ge "$need" ] ||
        echo "launch_user_vm: only $free of $need huge pages are free; ordinary memory fills the gap" >&2
}

add_tap() {
    [ -d "/sys/class/net/$bridge" ] || fail "the bridge $bridge does not exist"
    [ ! -d "/sys/class/net/$tap" ] || fail "the network interface $tap exists already: is VM $vm_id running?"
    tunctl -t "$tap" >/dev/null
    tap_made=yes
    brctl addif "$bridge" "$tap"
    ip link set "$tap" up
}

# shellcheck disable=SC2317 # called by the trap
undo() {
    local status=$?
    trap - EXIT
    if [ -n "$dm_pid" ] && kill -0 "$dm_pid" 2>/dev/null; then
        kill -TERM "$dm_pid" 2>/dev/null || true
        wait "$dm_pid" || true
    fi
    if [ -n "$tap_made" ] && [ -d "/sys/class/net/$tap" ]; then
        tunctl -d "$tap" >/dev/null || true
    fi
    # Take back our share only: another VM may have added its own since.
    if [ "$hugepages_added" -gt 0 ]; then
        local total
        total=$(cat "$hugepages/nr_hugepages")
        echo $((total > hugepages_added ? total - hugepages_added : 0)) >"$hugepages/nr_hugepages" || true
    fi
    exit "$status"
}

# Pass a request to end on to the VM, as its power button would.
# shellcheck disable=SC2317 # called by the trap
press_power_button() {
    [ -z "$dm_pid" ] || kill -TERM "$dm_pid" 2>/dev/null || true
}

check_preconditions
trap undo EXIT
trap press_power_button TERM INT HUP
choose_cpus
reserve_hugepages
add_tap

# shellcheck disable=SC2054 # the commas belong to the options
dm_params=(
    --cpu_affinity "$cpu_affinity"
    -m "${memory_mib}M"
    -k "$kernel"
    -B "$bootargs"
    -s 0:0,hostbridge
    -s 1:0,lpc
    -l "com1,$console"
    -s "3,virtio-blk,$disk"
    -s "4,virtio-net,tap=$tap,mac_seed=${vm_name}"
    -s 5,virtio-rnd
)
[ -z "$ramdisk" ] || dm_params+=(-r "$ramdisk")
[ -z "$life" ] || [ "$life" = vuart ] || dm_params+=(-l "com2,$life")
dm_params+=("${dm_options[@]}" "$vm_name")

echo "Launch device model with parameters: ${dm_params[*]}"
# In the background, so that a signal to this script is handled at once; standard
# input is passed on by name because the shell would replace it with /dev/null.
"$dm" "${dm_params[@]}" <&0 &
dm_pid=$!
status=0
while :; do
    wait "$dm_pid" && status=0 || status=$?
    # `wait` also returns when a trap ran: the VM is then still shutting down.
    kill -0 "$dm_pid" 2>/dev/null || break
done
dm_pid=
exit "$status"
