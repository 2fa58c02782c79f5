//! Examples in each command's `--help`. The manual pages have them too; tests/manual.rs runs those there and
//! checks that these are among them.

/// A command and lines that show its use, in the places of the manual: a store `archive`, mounted on
/// `mnt`, and files to put into it.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("up", &["lmfs up archive mnt", "lmfs up hot mnt --model fast -o cache=1G,noatime"]),
    ("mkfs", &["lmfs mkfs logs-archive --ecc archival"]),
    ("remote", &["lmfs remote set archive objects", "lmfs remote push archive"]),
    ("remote set", &["lmfs remote set archive objects"]),
    ("remote status", &["lmfs remote status archive"]),
    ("remote push", &["lmfs remote push archive"]),
    ("remote scrub", &["lmfs remote scrub archive --repair"]),
    ("remote gc", &["lmfs remote gc archive"]),
    ("remote evict", &["lmfs remote evict archive"]),
    ("remote pull", &["lmfs remote pull archive"]),
    ("clone", &["lmfs clone objects copy"]),
    ("mount", &["lmfs mount archive mnt -o ro", "lmfs mount --print-config archive"]),
    ("umount", &["lmfs umount mnt"]),
    ("settle", &["lmfs settle mnt mnt/logs", "lmfs settle --stop mnt"]),
    ("sync", &["lmfs sync mnt"]),
    ("recode", &["lmfs recode mnt -m fast mnt/app.log"]),
    ("status", &["lmfs status archive", "lmfs status archive --prometheus > lmfs.prom"]),
    ("stat", &["lmfs stat -r mnt/logs"]),
    ("ls", &["lmfs ls archive", "lmfs ls -lR archive logs"]),
    (
        "cat",
        &[
            "lmfs cat archive logs/auth.log | tail -n 3",
            "lmfs cat archive app.log --offset 200000 --length 500",
        ],
    ),
    ("export", &["lmfs export archive > archive.tar", "lmfs export archive logs | tar -t"]),
    ("import", &["lmfs import copy < archive.tar", "tar -c logs | lmfs import copy"]),
    (
        "grep",
        &[
            "lmfs grep -i REFUSED archive",
            "lmfs grep -A 3 --since \"Nov 29 12:05:00\" --until \"Nov 29 12:05:59\" refused archive/app.log",
        ],
    ),
    (
        "surprise",
        &[
            "lmfs surprise app.log --lines 3",
            "lmfs surprise mnt/logs/auth.log --html surprise.html",
        ],
    ),
    ("scrub", &["lmfs scrub --repair --throttle 32M archive", "lmfs scrub --decode archive"]),
    ("fsck", &["lmfs fsck archive"]),
    ("gc", &["lmfs gc archive"]),
    (
        "compress",
        &[
            "lmfs compress app.log -o app.log.lmz",
            "tar -c logs | lmfs compress - -m fast -o logs.tar.lmz",
        ],
    ),
    (
        "decompress",
        &[
            "lmfs decompress -t app.log.lmz",
            "lmfs decompress app.log.lmz -o app.log.2",
            "lmfs decompress logs.tar.lmz -o - | tar -t",
        ],
    ),
    ("model", &["lmfs model list", "lmfs model tune --corpus logs --name ourlogs"]),
    ("model list", &["lmfs model list"]),
    ("model info", &["lmfs model info small"]),
    ("model bench", &["lmfs model bench base"]),
    ("model verify", &["lmfs model verify ourlogs"]),
    ("model import", &["lmfs model import ourlogs.lmfsmodel"]),
    ("model train", &["lmfs model train --corpus logs --name small --memory 1M"]),
    (
        "model tune",
        &[
            "lmfs model tune --corpus logs --name ourlogs",
            "lmfs model tune --store mnt --name itself",
        ],
    ),
    ("model export", &["lmfs model export ourlogs -o ourlogs.lmfsmodel"]),
    ("model rm", &["lmfs model rm ourlogs"]),
    ("bench", &["lmfs bench codec app.log", "lmfs bench fs mnt/try"]),
    ("bench codec", &["lmfs bench codec app.log", "lmfs bench codec -m fast app.log"]),
    ("bench fs", &["lmfs bench fs mnt/try"]),
    ("completions", &["lmfs completions bash > lmfs.bash"]),
];

/// Those of the program as a whole.
const FIRST: &[&str] =
    &["lmfs up archive mnt", "cp -a logs mnt/", "lmfs settle mnt", "lmfs umount mnt"];

fn text(lines: &[&str]) -> String {
    format!("Examples:\n  {}", lines.join("\n  "))
}

/// Those of a command.
pub fn of(path: &str) -> String {
    EXAMPLES.iter().find(|(p, _)| *p == path).map(|(_, lines)| text(lines)).unwrap_or_default()
}

/// The command with examples behind its help and that of each of its subcommands.
pub fn added_to(command: clap::Command) -> clap::Command {
    let command = command.after_help(text(FIRST));
    EXAMPLES.iter().fold(command, |command, (path, lines)| {
        let with = |c: clap::Command| c.after_help(text(lines));
        match path.split_once(' ') {
            Some((group, name)) => command.mut_subcommand(group, |g| g.mut_subcommand(name, with)),
            None => command.mut_subcommand(*path, with),
        }
    })
}
