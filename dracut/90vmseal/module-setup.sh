#!/bin/bash
# Puts vmseal-boot, the pins and the pinned volumes' lines of crypttab into the initrd. Never what
# approves a boot (record, signatures, expected events, state): it would change what it approves.
# shellcheck disable=SC2154  # dracut sets them

# called by dracut
check() {
    [[ ! $mount_needs && -s $dracutsysrootdir/etc/vmseal/pins.json ]] || return 1
    require_binaries /usr/lib/vmseal/vmseal-boot || return 1
}

# called by dracut
depends() {
    echo crypt
}

# called by dracut
installkernel() {
    # The TPM that will be there is not always the one that is.
    # A host of QEMU hands over its approvals by the last one.
    hostonly='' instmods '=drivers/char/tpm' dm_crypt qemu_fw_cfg
}

# called by dracut
install() {
    inst_multiple /usr/lib/vmseal/vmseal-boot modprobe mkdir sleep sed
    inst_simple /etc/vmseal/pins.json
    # Loaded by name at run time, so that no list of libraries shows it.
    inst_libdir_file "libtss2-tcti-device.so*"
    copy_lines

    inst_script "$moddir/unlock" /usr/bin/vmseal-unlock
    inst_script "$moddir/gate" /usr/bin/vmseal-gate
    inst_script "$moddir/before-resume" /usr/bin/vmseal-before-resume
    # Numbers decide: before an image is resumed, before the shell, and last of all.
    inst_hook pre-udev 90 "$moddir/vmseal-resume-rules.sh"
    inst_hook pre-mount 00 "$moddir/vmseal-gate.sh"
    inst_hook emergency 00 "$moddir/vmseal-shell.sh"
    inst_hook pre-pivot 99 "$moddir/vmseal-gate.sh"

    if dracut_module_included systemd; then
        install_units
    else
        inst_hook initqueue/settled 00 "$moddir/vmseal-unlock.sh"
    fi
}

install_units() {
    local unit

    inst_multiple systemd-ask-password
    inst_simple "$moddir/vmseal-unlock.service" "$systemdsystemunitdir/vmseal-unlock.service"
    $SYSTEMCTL -q --root "$initdir" add-wants sysinit.target vmseal-unlock.service
    drop_in "$moddir/cryptsetup.conf" "systemd-cryptsetup@.service"
    drop_in "$moddir/resume.conf" systemd-hibernate-resume.service
    drop_in "$moddir/resume.conf" systemd-hibernate-resume@.service
    drop_in "$moddir/gate.conf" initrd-switch-root.service
    # Whatever opens a shell.
    for unit in emergency rescue dracut-emergency debug-shell breakpoint-pre-udev \
        breakpoint-pre-basic breakpoint-pre-mount breakpoint-pre-switch-root; do
        drop_in "$moddir/shell.conf" "$unit.service"
    done
}

# Gives a unit a drop-in, whether or not this initrd has the unit.
drop_in() {
    inst_simple "$1" "$systemdsystemunitdir/$2.d/90-vmseal.conf"
}

# vmseal-boot opens these before the stock unlocker comes, which keeps its own copy. The module crypt
# has written the initrd's crypttab by now.
copy_lines() {
    local table=$initdir/etc/crypttab name source key options

    # Whoever installs the whole file does it after all modules.
    [[ " $install_items " != *" /etc/crypttab "* ]] || table=$dracutsysrootdir/etc/crypttab
    mkdir -p "$initdir/etc/vmseal"
    : > "$initdir/etc/vmseal/crypttab"
    [[ -r $table ]] || return 0
    while read -r name source key options || [[ -n $name ]]; do
        if [[ ! $name || $name == \#* ]] || ! is_pinned "$source" "$options"; then
            continue
        fi
        if [[ $key && $key != none && $key != - ]]; then
            dwarning "vmseal: $name has a key file: left to the stock unlocker, without a pin"
            continue
        fi
        # Debian's tools read an escape in a name, systemd does not.
        if [[ $name == *\\* ]]; then
            dwarning "vmseal: $name has a backslash in its name: left to the stock unlocker, without a pin"
            continue
        fi
        printf '%s %s %s %s\n' "$name" "$source" none "$options"
    done < "$table" > "$initdir/etc/vmseal/crypttab"
}

# Whether the LUKS header that a line of crypttab leads to is pinned: second and fourth field.
is_pinned() {
    local source=${1//\"/} options=",$2," device uuid

    device=$source
    case $source in
        UUID=*) uuid=${source#UUID=} ;;
        /dev/disk/by-uuid/*) uuid=${source#/dev/disk/by-uuid/} ;;
        LABEL=* | PARTUUID=* | PARTLABEL=*) device=$(blkid -l -t "$source" -o device) ;;
        ID=*) device=/dev/disk/by-id/${source#ID=} ;;
    esac
    if [[ $options == *,header=* ]]; then
        options=${options#*,header=}
        device=${options%%,*} uuid=
    fi
    [[ $uuid ]] || uuid=$(cryptsetup luksUUID "$device" 2> /dev/null)
    [[ $uuid ]] && grep -qF "\"${uuid,,}\"" "$dracutsysrootdir/etc/vmseal/pins.json"
}
