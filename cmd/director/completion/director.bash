# Completion of director and ipvsadm for bash.
_director() {
	local words cur prefix
	read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
	case ${COMP_LINE:0:COMP_POINT} in *[[:space:]]) words+=('') ;; esac
	cur=${words[-1]}
	# bash replaces only what comes after the last of these.
	prefix=${cur%"${cur##*[:=]}"}
	mapfile -t COMPREPLY < <(director complete "${words[0]##*/}" "${words[@]:1}" 2>/dev/null | cut -f 1)
	COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -o bashdefault -o default -F _director director ipvsadm ipvsadm-save ipvsadm-restore
