#compdef director ipvsadm ipvsadm-save ipvsadm-restore
# Completion of director and ipvsadm for zsh.
_director() {
	local -a found names shown
	found=("${(@f)$(director complete "${words[1]:t}" "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -z "$found" ]]; then
		_files
		return
	fi
	names=("${(@)found%%$'\t'*}")
	shown=("${(@)found/$'\t'/  -- }")
	compadd -d shown -a names
}
if [[ "${funcstack[1]}" == _director ]]; then
	_director "$@"
else
	compdef _director director ipvsadm ipvsadm-save ipvsadm-restore
fi
