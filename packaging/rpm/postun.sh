# The argument is 1 when another version has replaced the package; a service that runs goes on with that.
command -v systemctl >/dev/null || exit 0
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload || :
if [ "$1" -ge 1 ]; then
	systemctl try-restart telesonde.service || :
fi
