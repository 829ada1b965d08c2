#!/usr/bin/env bash
# Run a command as a container would: a read-only copy-on-write view of this host's files, volumes
# and tmpfs only where told, another user, no capabilities. Network and processes are the host's.
#   unshare --mount contain.sh SCRATCH [--user UID:GID] [--reach PATH]... [--tmpfs PATH]...
#     [--bind FROM:TO]... [--workdir PATH] -- COMMAND...
set -euo pipefail

scratch="$1" user=0:0 workdir=/
shift
mount -t tmpfs -o mode=0755 scratch "$scratch"
mkdir "$scratch"/{upper,work,root}
root="$scratch/root"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"

# Let every user pass through the folders above a path, in this view of them only.
reach() {
  local folder="$1"
  while [[ $folder != / ]]; do
    [[ -n $(find "$root$folder" -maxdepth 0 -perm -o=x) ]] || chmod o+rx "$root$folder"
    folder="$(dirname "$folder")"
  done
}

bind() {
  local from="$1" to="$root$2"
  mkdir -p "$(dirname "$to")"
  if [[ -d $from ]]; then mkdir -p "$to"; else touch "$to"; fi
  mount --bind "$from" "$to"
}

while [[ $1 != -- ]]; do
  case "$1" in
    --user) user="$2" ;;
    --workdir) workdir="$2" ;;
    --reach) reach "$2" ;;
    --tmpfs) mkdir -p "$root$2" && mount -t tmpfs -o mode=1777 tmpfs "$root$2" ;;
    --bind) bind "${2%%:*}" "${2#*:}" ;;
    *) echo "contain.sh: $1 is no option" >&2 && exit 2 ;;
  esac
  shift 2
done
shift

mount -o remount,ro "$root"
exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups \
  --no-new-privs --inh-caps=-all --bounding-set=-all env -C "$workdir" "$@"
