# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# charlie becomes the invoking user: the uid and the groups of the host, so that passed-through files look and behave
# as they do there. usermod and groupadd would take seconds and refuse names that hosts have; one awk edits both files.
#
# Where the host's groups meet the guest's own:
#   the gid exists under another name   charlie joins the guest's group
#   the name exists with another gid    the group is called NAME_GID here
# /etc/chslurm/groups remembers what was added, as name:gid:made or name:gid:joined; an image that was committed and is
# then booted by somebody else forgets the groups of the first user.

CHARLIE_GID=65530
etc=$CH_ROOT/etc

case $CH_UID in
    '' | 0 | *[!0-9]*) fail "cannot give charlie the uid '$CH_UID'; an ordinary user starts a cluster" ;;
esac
[ -d "$etc/chslurm" ] || mkdir "$etc/chslurm"
: >>"$etc/chslurm/groups"

# shellcheck disable=SC2016  # awk's dollars, not the shell's
merge_accounts='
    # A name that /etc/group can hold: colons and control characters end fields and lines, and a first
    # character of - + # or space has a meaning of its own.
    function clean(name, gid) {
        gsub(/[[:cntrl:]:]/, "_", name)
        sub(/^[-+# ]/, "_", name)
        return name == "" ? "group_" gid : name
    }
    function without_charlie(members) {
        members = "," members ","
        gsub(/,charlie,/, ",", members)
        gsub(/^,|,$/, "", members)
        return members
    }
    function add_group(name, gid, members) {
        name_of[++groups] = name; gid_of[groups] = gid; members_of[groups] = members
        by_name[name] = by_gid[gid] = groups
        return groups
    }
    function note(text) { print text >notes }

    file == "earlier" { how[$1 ":" $2] = $3 }

    file == "wanted" {
        if ($1 !~ /^[0-9]+$/) { note("ignoring a group of the host without a number"); next }
        wanted_gid[++wanted] = $1
        wanted_name[wanted] = clean(substr($0, length($1) + 2), $1)
        is_wanted[wanted_name[wanted] ":" $1] = 1
    }

    file == "group" {
        if (NF < 3 || /^[-+#]/) { print >new_group; next }
        key = $1 ":" $3
        if (how[key] == "made" && !(key in is_wanted)) next
        add_group($1, $1 == "charlie" ? charlie_gid : $3, how[key] ? without_charlie($4) : $4)
        password_of[groups] = $2
    }

    file == "passwd" && $1 == "charlie" {
        print $3 ":" $6 >home
        $3 = uid; $4 = charlie_gid
        charlie = $0
        next
    }
    file == "passwd" { account[++accounts] = $0; if ($3 == uid && !twin) twin = accounts }

    END {
        if (!charlie) { note("the image has no user charlie"); exit 1 }

        # The first entry of a uid is the one whose name is shown.
        if (twin) note("uid " uid " belongs to another user of the image, too; it shows as charlie")
        for (i = 1; i <= accounts; i++) {
            if (i == twin) print charlie >new_passwd
            print account[i] >new_passwd
        }
        if (!twin) print charlie >new_passwd

        if (!("charlie" in by_name)) add_group("charlie", charlie_gid, "")
        for (i = 1; i <= wanted; i++) {
            gid = wanted_gid[i]; name = wanted_name[i]
            if (gid == charlie_gid) continue
            if (gid in by_gid) {
                g = by_gid[gid]
                if (name_of[g] != name) note("group " name " (" gid ") of the host is " name_of[g] " here")
            } else {
                while (name in by_name) name = name "_" gid
                if (name != wanted_name[i]) note("group " wanted_name[i] " (" gid ") of the host is " name " here")
                g = add_group(name, gid, "")
                how[name ":" gid] = "made"
            }
            if (index("," members_of[g] ",", ",charlie,")) continue
            members_of[g] = members_of[g] (members_of[g] == "" ? "" : ",") "charlie"
            key = name_of[g] ":" gid
            earlier = earlier key ":" (how[key] == "made" ? "made" : "joined") "\n"
        }
        printf "%s", earlier >new_earlier
        who = "uid=" uid "(charlie) gid=" charlie_gid "(charlie) groups=" charlie_gid "(charlie)"
        for (i = 1; i <= groups; i++) {
            print name_of[i], (i in password_of ? password_of[i] : "x"), gid_of[i], members_of[i] >new_group
            if (index("," members_of[i] ",", ",charlie,")) who = who "," gid_of[i] "(" name_of[i] ")"
        }
        note(who)
    }
'

# The new files are complete before they take their places, and the home directory has its new owner before the
# password file says so: a boot that is cut off is put right by the next one.
: >"$CH_RUN/notes"
status=0 last_note=
LC_ALL=C awk -F: -v OFS=: -v uid="$CH_UID" -v charlie_gid="$CHARLIE_GID" \
    -v notes="$CH_RUN/notes" -v home="$CH_RUN/home" \
    -v new_passwd="$etc/chslurm/passwd" -v new_group="$etc/chslurm/group" -v new_earlier="$etc/chslurm/groups" \
    "$merge_accounts" \
    file=earlier "$etc/chslurm/groups" file=wanted "$CH_RUN/groups" \
    file=group "$etc/group" file=passwd "$etc/passwd" || status=$?

while IFS= read -r line; do
    log "$line"
    last_note=$line
done <"$CH_RUN/notes"
[ "$status" -eq 0 ] || fail "cannot write the users and groups; ${last_note:-is the disk of the image full?}"

# ssh refuses a key that others can read, so charlie gets a copy of the cluster's own.
umask 0077
user=$CH_RUN/user
mkdir "$user"
for name in id_ed25519 id_ed25519.pub; do
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line"
    done <"$CH_RUN/$name" >"$user/$name"
done
chown -h "$CH_UID" "$user" "$user"/*

# The home directory follows a changed uid: what charlie owned there, and nothing on other file systems. With very many
# files this takes minutes. Every few seconds the host hears how many are done, and gives the boot the time.
# shellcheck disable=SC2016  # for the shell that find starts, with the uid as $0
give='
    [ $# -ge 200 ] || exec chown -h "$0" "$@"
    chown -h "$0" "$@" || exit
    read -r given next_s <"$CH_RUN/given"
    read -r uptime_s _ </proc/uptime
    given=$((given + $#))
    if [ "${uptime_s%.*}" -ge "$next_s" ]; then
        chguest stage "20-users.$given-files"
        next_s=$((${uptime_s%.*} + 5))
    fi
    echo "$given $next_s" >"$CH_RUN/given"
'
IFS=: read -r old_uid home <"$CH_RUN/home"
if [ "$old_uid" != "$CH_UID" ]; then
    echo 0 0 >"$CH_RUN/given"
    export CH_RUN
    find "$CH_ROOT$home" -xdev -user "$old_uid" -exec sh -c "$give" "$CH_UID" {} +
fi

mv "$etc/chslurm/group" "$etc/chslurm/passwd" "$etc"
