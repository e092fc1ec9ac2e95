sys=${SYS:-/sys}
cpuinfo=${CPUINFO:-/proc/cpuinfo}
hsm=${HSM:-/dev/acrn_hsm}
dm=${ACRN_DM:-acrn-dm}
bridge=${BRIDGE:-acrn-br0}

taps_made=()
cpus_off=()
drivers=()
dm_pid=

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

check() {
    [ "$(id -u)" -eq 0 ] || fail "must run as root"
    command -v "$dm" >/dev/null || fail "$dm is not installed"
    [ -e "$hsm" ] || fail "$hsm is missing: this kernel is not the Service VM of ACRN, or lacks CONFIG_ACRN_HSM"
    local item
    for item in "${files[@]}"; do
        [ -e "$item" ] || fail "$item is missing: put it there, or change the scenario"
    done
    for item in "${apic_ids[@]}"; do
        linux_cpu "$item" >/dev/null ||
            fail "there is no CPU with the APIC id $item: the scenario was made for another board"
    done
    for item in "${pci_devices[@]}"; do
        [ -d "$sys/bus/pci/devices/$item" ] || fail "there is no PCI device $item: the scenario was made for another board"
    done
    if [ ${#taps[@]} -gt 0 ]; then
        [ -d "$sys/class/net/$bridge" ] || fail "the bridge $bridge does not exist: make it, or name another with BRIDGE="
    fi
}

# The number that Linux gives the CPU with an APIC id.
linux_cpu() {
    awk -F': ' -v id="$1" '
        /^processor/ { cpu = $2 }
        /^apicid/ && $2 == id { print cpu; found = 1; exit }
        END { exit !found }' "$cpuinfo"
}

load_modules() {
    local module
    for module in "${modules[@]}"; do
        modprobe "$module" || fail "the module $module cannot be loaded: build it for this kernel"
    done
}

# Linux leaves the CPUs that are the VM's own.
take_cpus_off() {
    local id cpu online
    for id in "${own_apic_ids[@]}"; do
        cpu=$(linux_cpu "$id") || fail "the CPU with the APIC id $id has gone"
        online=$sys/devices/system/cpu/cpu$cpu/online
        [ -e "$online" ] || fail "Linux cannot do without CPU $cpu: give the VM another one"
        [ "$(cat "$online")" = 1 ] || continue
        echo 0 >"$online" || fail "Linux does not leave CPU $cpu"
        cpus_off+=("$online")
        if [ "$cpus_for_good" = yes ]; then
            # The hypervisor takes it from the Service VM until the next boot.
            echo "$cpu" >"$sys/devices/virtual/misc/acrn_hsm/remove_cpu" ||
                fail "the hypervisor does not take CPU $cpu from the Service VM"
            unset 'cpus_off[-1]'
        fi
    done
}

# Only these very devices, not all of their kind.
unbind_devices() {
    local device path driver
    [ ${#pci_devices[@]} -eq 0 ] || modprobe pci_stub 2>/dev/null || true
    for device in "${pci_devices[@]}"; do
        path=$sys/bus/pci/devices/$device
        driver=
        [ ! -e "$path/driver" ] || driver=$(basename "$(readlink -f "$path/driver")")
        [ "$driver" != pci-stub ] || continue
        drivers+=("$device $driver")
        echo pci-stub >"$path/driver_override"
        [ -z "$driver" ] || echo "$device" >"$path/driver/unbind"
        echo "$device" >"$sys/bus/pci/drivers_probe" || fail "the driver of $device does not let go of it"
    done
}

make_taps() {
    local tap
    for tap in "${taps[@]}"; do
        # One that is there already belongs to somebody else, who also connects it.
        [ ! -d "$sys/class/net/$tap" ] || continue
        ip tuntap add "$tap" mode tap 2>/dev/null || tunctl -t "$tap" >/dev/null ||
            fail "the network interface $tap cannot be made"
        taps_made+=("$tap")
        ip link set "$tap" master "$bridge" 2>/dev/null || brctl addif "$bridge" "$tap" ||
            fail "$tap cannot be connected to $bridge"
        ip link set "$tap" up
    done
}

# shellcheck disable=SC2317 # called by the trap
undo() {
    local status=$? item
    trap - EXIT
    if [ -n "$dm_pid" ] && kill -0 "$dm_pid" 2>/dev/null; then
        kill -TERM "$dm_pid" 2>/dev/null || true
        wait "$dm_pid" || true
    fi
    for item in "${taps_made[@]}"; do
        ip tuntap del "$item" mode tap 2>/dev/null || tunctl -d "$item" >/dev/null || true
    done
    for item in "${drivers[@]}"; do
        give_back "${item%% *}" "${item#* }" || true
    done
    for item in "${cpus_off[@]}"; do
        echo 1 >"$item" || true
    done
    exit "$status"
}

# shellcheck disable=SC2317 # called by undo
give_back() {
    local path=$sys/bus/pci/devices/$1
    echo >"$path/driver_override"
    [ ! -e "$path/driver" ] || echo "$1" >"$path/driver/unbind"
    [ -z "$2" ] || echo "$1" >"$sys/bus/pci/drivers_probe"
}

# A request to end is the VM's power button.
# shellcheck disable=SC2317 # called by the trap
press_power_button() {
    [ -z "$dm_pid" ] || kill -TERM "$dm_pid" 2>/dev/null || true
}

check
trap undo EXIT
trap press_power_button TERM INT HUP
load_modules
take_cpus_off
unbind_devices
make_taps

# Standard input by name, since the shell would give a process in the background /dev/null.
"$dm" "${dm_params[@]}" <&0 &
dm_pid=$!
status=0
while :; do
    wait "$dm_pid" && status=0 || status=$?
    # wait also returns when a trap ran: the VM is still shutting down then.
    kill -0 "$dm_pid" 2>/dev/null || break
done
dm_pid=
exit "$status"
