#! /bin/bash
# A stand-in for KWDB's deploy.sh: the order of its checks, its words, its exit codes and its bad habits.
#
# With KW_STANDIN_ROOT set it works on the tree under that directory and without sudo, for machines that have
# neither root nor systemd; `systemctl` is then a wrapper to the process service manager on PATH.

here=$(cd "$(dirname "$0")" && pwd)
root=${KW_STANDIN_ROOT:-}
info=$root/etc/kaiwudb/info
env_file=$root/etc/kaiwudb/script/kaiwudb_env
unit_file=$root/etc/systemd/system/kaiwudb.service
bin=$root/usr/local/kaiwudb/bin
pads='                                                                                                    '
log_file=

# --- how it asks for rights

as_root() {
  if [ -n "$root" ]; then "$@"
  elif [ -n "${password-}" ]; then printf '%s\n' "$password" | sudo -S -p '' "$@"
  else sudo "$@"; fi
}

as_management_user() {
  if [ -n "$root" ]; then "$@"; else as_root -u "$(mode_line 7)" "$@"; fi
}

early_error() { printf '\033[31m[ERROR]\033[0m %s\n' "$1" >&2; exit 1; }

require_rights() {
  [ -n "$root" ] && return
  if [ "$(id -u)" -ne 0 ] && ! timeout --foreground -k 1 1s sudo -n true >/dev/null 2>&1; then
    # A password that never comes is waited for; read gives up after a minute.
    read -r -s -t 60 -p "Please input $(id -un)'s password: " password
    echo
    printf '%s\n' "$password" | sudo -k -S -p '' true >/dev/null 2>&1 || early_error 'Incorrect password.'
  fi
  as_root bash -c exit >/dev/null 2>&1 || early_error "Can not use command: 'sudo bash'."
}

# --- what it says

open_log() {
  mkdir -p "$here/log" && log_file=$here/log/$(date +%F) && touch "$log_file" || early_error 'Deploy log init failed.'
}

error() {
  local text
  text="[ERROR] $(date '+%F %T') $1"
  printf '%s\r' "$pads"
  printf '%s\n' "$text" >>"$log_file"
  printf '\033[31m %s \033[0m\n' "$text"
  exit 1
}

completed() { printf '\033[1;32m[%s]:\033[0m%s\n' "$1" "$2"; }

# The bar is a child that holds this script's stdout and sits in a read on a FIFO that it holds open itself: after
# a failure nobody writes to it again and nobody ends it.
progress_bar() {
  local step percent filled
  while kill -0 "$1" 2>/dev/null; do
    IFS=: read -r -u 10 step percent || continue
    printf -v filled '%*s' $((percent / 2)) ''
    printf '%-25s: [%-50s] %d%%\r' "$step" "${filled// /#}" "$percent"
    [ "$percent" -eq 100 ] && break
  done
  printf '%s\r' "$pads"
}

start_progress() {
  local fifo=$here/kw_pipe
  [ -p "$fifo" ] || mkfifo "$fifo" || error "Pipe create failed: $fifo."
  exec 10<>"$fifo"
  rm -f "$fifo"
  progress_bar $$ &
}

progress() { echo "$1:$2" >&10; }

# --- what it knows of the host

mode_line() { sed -n "${1}p" "$info/MODE" 2>/dev/null; }

secure_options() {
  case $(mode_line 8) in
    tls) echo "--certs-dir=$root/etc/kaiwudb/certs" ;;
    tlcp) echo "--certs-dir=$root/etc/kaiwudb/certs --tlcp" ;;
    *) echo --insecure ;;
  esac
}

# Loopback clusters give every node its own address and have nothing on 127.0.0.1.
node_host() {
  if [ -n "$root" ]; then echo "$(mode_line '$'):$(mode_line 5)"; else echo "127.0.0.1:$(mode_line 5)"; fi
}

kwbase() { (cd "$bin" 2>/dev/null; as_management_user "$bin/kwbase" "$@" --host="$(node_host)" $(secure_options)) 2>&1; }

is_running() {
  if [ "$(mode_line 1)" = container ]; then
    docker ps --filter name=kaiwudb-container --format '{{.Status}}' 2>/dev/null | grep -q '^Up'
  else
    local pid
    pid=$(systemctl show --property MainPID --value kaiwudb)
    [ "${pid:-0}" -ne 0 ]
  fi
}

require_installed() {
  [ -e "$unit_file" ] || error 'KaiwuDB does not exist. Please install KaiwuDB first.'
}

# --- is this package fit for this host

require_complete_package() {
  local part
  if [ -e "$here/packages/KaiwuDB.tar" ]; then package_method=container; return; fi
  package_method=bare
  for part in server libcommon; do
    ls "$here/packages" 2>/dev/null | grep -q "$part" || error "Package $part does not exist."
  done
}

bypass_hint='WARNING:This version upgrade is not supported, and if you continue to upgrade, you can use the --bypass-version-check option to re-execute the upgrade command to skip the version comparison check.'

kind_of() { [[ $1 =~ ^([a-z]+) ]] && echo "${BASH_REMATCH[1]}"; }
number_of() { [[ $1 =~ ^[a-z]+([0-9]+) ]] && echo "${BASH_REMATCH[1]}" || echo 0; }
second_of() { [[ $1 =~ ^[a-z]+[0-9]*(.*)$ ]] && echo "${BASH_REMATCH[1]}"; }

# Prints the refusal and fails when the extension may not change from $1 to $2 within one basic version.
extension_refused() {
  local from=$1 to=$2 from_kind to_kind
  from_kind=$(kind_of "$from") to_kind=$(kind_of "$to")
  if [ -z "$from" ] && [[ $to_kind = alpha || $to_kind = beta ]]; then
    echo "UPGRADE ERROR:Official version can not upgrade to $to."
  elif [[ $from_kind = beta && $to_kind = alpha ]] ||
    [[ $from_kind =~ ^(hotfix|enhance|patch)$ && $to_kind =~ ^(alpha|beta)$ ]]; then
    echo "UPGRADE ERROR:The upgrade conditions are not met.($from --> $to)"
  elif [[ $from_kind =~ ^(hotfix|enhance|patch)$ && $to_kind =~ ^(hotfix|enhance|patch)$ && $from_kind != "$to_kind" ]]; then
    echo "$bypass_hint"
  elif [ "$from_kind" = "$to_kind" ]; then
    same_kind_refused "$from" "$to"
  else return 1; fi
}

same_kind_refused() {
  local from=$1 to=$2 from_second to_second
  from_second=$(second_of "$from") to_second=$(second_of "$to")
  if [ "$(number_of "$to")" -gt "$(number_of "$from")" ]; then return 1; fi
  if [ "$(number_of "$to")" -lt "$(number_of "$from")" ]; then echo "$bypass_hint"; return 0; fi
  if [ -n "$from_second" ] && [ -z "$to_second" ]; then return 1; fi
  if [ -n "$from_second" ] && ! extension_refused "$from_second" "$to_second" >/dev/null; then return 1; fi
  echo "UPGRADE ERROR:The upgrade conditions are not met.($from --> $to)"
}

require_newer_version() {
  [ -f "$info/.version" ] || return
  local old new refusal
  old=$(sed -n 1p "$info/.version") new=$(sed -n 1p "$here/packages/.version")
  if [ "$old" = "$new" ]; then
    refusal=$(extension_refused "$(sed -n 2p "$info/.version")" "$(sed -n 2p "$here/packages/.version")") && error "$refusal"
  elif [ "$(printf '%s\n%s\n' "$old" "$new" | sort -V | head -n 1)" = "$new" ]; then
    error "UPGRADE ERROR:The requested upgrade version is older than the current installed version.(current:$old new_version:$new)"
  fi
}

# --- the exchange of the packages: not atomic, and .version comes last

package_tool() {
  local options=()
  if [ -n "$root" ]; then
    options=(--root="$root" --force-not-root --force-script-chrootless --force-bad-path)
  fi
  as_root dpkg "${options[@]}" "$@"
}

remove_package() { if [ "$tool" = rpm ]; then as_root rpm -e "$1"; else package_tool -r "$1"; fi; }

install_package() { if [ "$tool" = rpm ]; then as_root rpm -ivh "$1"; else package_tool -i "$1"; fi; }

# What the host is called does not count: a host that has dpkg takes .deb files.
find_package_tool() { if dpkg --help >/dev/null 2>&1; then tool=dpkg; else tool=rpm; fi; }

exchange_packages() {
  local name out
  find_package_tool
  for name in kaiwudb-server kaiwudb-libcommon kwdb-server kwdb-libcommon; do
    remove_package "$name" >/dev/null 2>&1
  done
  # The host has no kwbase meanwhile.
  [ -z "$(knob install_delay)" ] || sleep "$(knob install_delay)"
  for name in libcommon server; do
    out=$(install_package "$here"/packages/*"$name"* 2>&1) || { echo "$out"; return 1; }
  done
  [ -n "$root" ] || as_root chown -R "$(mode_line 7):$(mode_line 7)" /usr/local/kaiwudb >/dev/null 2>&1
  renew_unit
}

# The suffix q on sed's -i leaves the old file beside the new one, as the vendor's script does by mistake.
renew_unit() {
  as_root touch "$env_file"
  grep -q KAIWUDB_START_ARG "$env_file" || echo 'KAIWUDB_START_ARG=""' | as_root tee "$env_file" >/dev/null
  as_root sed -iq 's,/etc/kwdb,/etc/kaiwudb,g' "$unit_file"
  as_root sed -iq 's,/usr/local/kwdb,/usr/local/kaiwudb,g' "$unit_file"
}

exchange_image() {
  local out image old
  cd "$here/packages" || return 1
  out=$(docker load <KaiwuDB.tar 2>&1) || { echo "docker load failed: $out"; return 1; }
  image=$(printf '%s\n' "$out" | sed -n 's/^Loaded image[^:]*: //p' | tail -n 1)
  cd "$root/etc/kaiwudb/script" || return 1
  old=$(docker ps -a --filter name=kaiwudb-container --format '{{.Image}}')
  if [ -n "$old" ]; then docker-compose down >/dev/null 2>&1; else old=$(mode_line 3); fi
  docker rmi "$old" >/dev/null 2>&1
  as_root sed -i "3s,.*,$image," "$info/MODE"
  as_root sed -i "s,image:.*,image: $image," docker-compose.yml
}

exchange() {
  if [ "$package_method" = bare ]; then exchange_packages; else exchange_image; fi || return 1
  as_root cp -f "$here/packages/.version" "$info"
}

# Faults that the package builder put into this package.
knob() { sed -n "s/^$1=//p" "$here/utils/standin.cfg" 2>/dev/null; }

# --- the online route

mark_upgrading() {
  local status id
  if [ "$(mode_line 1)" = container ]; then container_mark; return; fi
  status=$(kwbase node status) || { echo "Get node id failed: $status."; return 1; }
  id=$(printf '%s\n' "$status" | awk -v ip="$(mode_line '$')" 'NR > 1 { split($3, at, ":"); if (at[1] == ip) print $1 }')
  status=$(kwbase node upgrade "$id") || { echo "$status"; return 1; }
}

container_kwbase() { docker exec kaiwudb-container ./kwbase "$@" $(secure_options | sed 's,/etc,,') --host=127.0.0.1:26257 2>&1; }

container_mark() {
  local status id
  status=$(container_kwbase node status) || { echo "Get node id failed: $status."; return 1; }
  id=$(printf '%s\n' "$status" | awk -v ip="$(mode_line '$')" 'NR > 1 { split($3, at, ":"); if (at[1] == ip) print $1 }')
  status=$(container_kwbase node upgrade "$id") || { echo "$status"; return 1; }
}

wait_for_status() {
  local tries=${KW_STANDIN_STATUS_TRIES:-300} i
  for ((i = 0; i <= tries; i++)); do
    if [ "$(mode_line 1)" = container ]; then container_kwbase node status; else kwbase node status; fi >/dev/null 2>&1 && return
    sleep "${KW_STANDIN_STATUS_PAUSE:-2}"
  done
  return 1
}

bring_back() {
  if [ "$(mode_line 1)" = container ]; then
    local compose=$root/etc/kaiwudb/script/docker-compose.yml
    grep -q -- --upgrade-complete "$compose" || as_root sed -iq 's,.*/kaiwudb/bin/kwbase.*,& --upgrade-complete,' "$compose"
    as_root systemctl daemon-reload
    as_root systemctl start kaiwudb >/dev/null 2>&1 && sleep "${KW_STANDIN_START_PAUSE:-3}" && wait_for_status
  else
    as_root sed -i 's/KAIWUDB_START_ARG="/&--upgrade-complete /' "$env_file"
    as_root systemctl daemon-reload
    as_root systemctl restart kaiwudb >/dev/null 2>&1 && wait_for_status
  fi || { echo "Restart KaiwuDB failed. For more information, use 'journalctl -u kaiwudb' to view the system logs."; return 1; }
  if [ "$(mode_line 1)" = container ]; then as_root rm -f "$root/etc/kaiwudb/script/docker-compose.ymlq"
  else as_root sed -iq 's/--upgrade-complete//g' "$env_file"; fi
}

# The scripts of V3.0.0 took a start of the unit for success.
bring_back_without_looking() {
  as_root sed -i 's/KAIWUDB_START_ARG="/&--upgrade-complete /' "$env_file"
  as_root systemctl daemon-reload
  as_root systemctl restart kaiwudb >/dev/null 2>&1
  as_root sed -iq 's/--upgrade-complete//g' "$env_file"
}

# --- commands

upgrade_local() {
  local out
  trap '' INT
  [ -z "$(knob hangs)" ] || sleep "$(knob hangs)"
  start_progress
  progress 'install check' 10
  require_installed
  progress 'verify packages' 20
  require_complete_package
  progress 'verify install type' 30
  [ "$package_method" = "$(mode_line 1)" ] || error "Current use $(mode_line 1), but the package is $package_method."
  if [ "$bypass" != yes ]; then
    progress 'version compare' 50
    require_newer_version
  fi
  progress 'whether running' 60
  if ! is_running; then
    progress 'upgrade' 70
    out=$(exchange) || error "Pipe create failed: $out."
  elif [ "$(mode_line 2)" != single ]; then
    upgrade_online
  else
    error 'Current local node is not support online upgrade! Please stop KaiwuDB then try again.'
  fi
  progress 'upgrade complete' 100
  wait
  exec 10>&-
  completed 'UPGRADE COMPLETED' 'Local node upgrade successfully.'
}

upgrade_online() {
  local out
  progress 'change KaiwuDB status' 75
  out=$(mark_upgrading) || error "KaiwuDB change status failed: $out."
  progress 'upgrade' 80
  out=$(exchange) || error "KaiwuDB upgrade failed: $out."
  progress 'restart KaiwuDB' 90
  if [ -n "$(knob blind_restart)" ]; then bring_back_without_looking; return; fi
  out=$(bring_back) || error "Recover KaiwuDB failed: $out."
}

start_node() {
  require_installed
  is_running && error 'KaiwuDB is runnning now.'
  as_root systemctl daemon-reload
  as_root systemctl start kaiwudb >/dev/null 2>&1 && sleep "${KW_STANDIN_START_PAUSE:-3}" && wait_for_status ||
    error 'Start KaiwuDB failed. For more information, check kwbase log.'
  completed 'START COMPLETED' 'KaiwuDB start successfully.'
}

stop_node() {
  require_installed
  is_running || error 'KaiwuDB is not runnning now.'
  as_root systemctl daemon-reload
  as_root systemctl stop kaiwudb >/dev/null 2>&1 || error 'Stop KaiwuDB failed.'
  completed 'STOP COMPLETED' 'KaiwuDB stop successfully.'
}

restart_node() {
  require_installed
  is_running || error 'KaiwuDB is not runnning now.'
  as_root systemctl daemon-reload
  as_root systemctl restart kaiwudb >/dev/null 2>&1 && wait_for_status || error 'Restart KaiwuDB failed.'
  completed 'RESTART COMPLETED' 'KaiwuDB restart successfully.'
}

show_status() {
  require_installed
  if is_running; then completed 'STATUS COMPLETED' 'KaiwuDB is runnning now.'
  else completed 'STATUS COMPLETED' 'KaiwuDB is not runnning.'; fi
}

uninstall_node() {
  local answer data
  require_installed
  is_running && error 'KaiwuDB is running, please stop KaiwuDB first.'
  read -r -p 'When uninstalling KaiwuDB, you can either delete or keep all user data. Please confirm your choice: Do you want to delete the data? (y/N): ' answer
  data=$root$(mode_line 4)
  find_package_tool
  remove_package kaiwudb-server >/dev/null 2>&1
  remove_package kaiwudb-libcommon >/dev/null 2>&1
  as_root rm -rf "$root/usr/local/kaiwudb" "$unit_file" "$root/usr/bin/kw-status" "$root/usr/bin/kw-sql"
  case $answer in y | yes) as_root rm -rf "$data" "$root/etc/kaiwudb" ;; esac
  completed 'UNINSTALL COMPLETED' 'KaiwuDB has been uninstalled successfully.'
}

usage() {
  echo "Usage: deploy.sh upgrade [-l|--local] [--bypass-version-check] | start | stop | restart | status | uninstall"
  exit 0
}

command=${1:-}
shift
scope= bypass=
for option in "$@"; do
  case $option in
    -l | --local) scope=local ;;
    --bypass-version-check) bypass=yes ;;
    *) usage ;;
  esac
done
case $command in upgrade | start | stop | restart | status | uninstall) ;; *) usage ;; esac

require_rights
open_log
case $command in
  upgrade) if [ "$scope" = local ]; then upgrade_local; fi ;;
  start) start_node ;;
  stop) stop_node ;;
  restart) restart_node ;;
  status) show_status ;;
  uninstall) uninstall_node ;;
esac
