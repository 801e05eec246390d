#!/bin/sh
# Opens the volumes of this boot; options go to vmseal-boot. The cause of a refusal must stand on the
# console, where the passphrase is asked for.

[ -e /dev/tpmrm0 ] || modprobe -q -a tpm_crb tpm_tis
modprobe -q dm_crypt
[ -d /run/cryptsetup ] || mkdir -m 0700 /run/cryptsetup

if [ -d /run/systemd/system ]; then
    ask="systemd-ask-password --id=vmseal --timeout=0"
elif command -v plymouth >/dev/null && plymouth --ping; then
    ask="plymouth ask-for-password --prompt"
else
    ask=-
fi
exec /usr/lib/vmseal/vmseal-boot unlock --ask "$ask" "$@" 2>/dev/console
