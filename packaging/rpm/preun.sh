# The argument is 0 when nothing replaces the package.
command -v systemctl >/dev/null || exit 0
if [ "$1" -eq 0 ]; then
	systemctl --no-reload disable telesonde.service || :
	if [ -d /run/systemd/system ]; then
		systemctl stop telesonde.service || :
	fi
fi
