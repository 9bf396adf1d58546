# Completion of director and ipvsadm for fish.
function __director_complete
	set -l words (commandline -opc)
	director complete (string replace -r '.*/' '' -- $words[1]) $words[2..] (commandline -ct) 2>/dev/null
end
for program in director ipvsadm ipvsadm-save ipvsadm-restore
	complete -c $program -f -a '(__director_complete)'
end
complete -c director -n '__fish_seen_subcommand_from apply' -F
