# The argument is 1 on the first installation. Whether the service is enabled then is the distribution's policy (its presets).
command -v systemctl >/dev/null || exit 0
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ]; then
	systemctl --no-reload preset telesonde.service || :
fi
