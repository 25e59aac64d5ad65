#!/bin/sh
# Run by cloud-init once for each instance. The password of root, where the tenant set one, comes as vendor data, which
# the AliYun source of Debian 12's cloud-init (22.4) does not read; later ones do, and this changes nothing then.
hash=$(curl -fsS --max-time 10 http://100.100.100.200/2016-01-01/vendor-data 2>/dev/null |
    sed -n 's/^ *password: "\(\$6\$[^"]*\)"$/\1/p' | head -n 1)
[ -n "$hash" ] || exit 0
printf 'root:%s\n' "$hash" | chpasswd -e
printf 'PasswordAuthentication yes\n' > /etc/ssh/sshd_config.d/05-password.conf
systemctl reload ssh
