"""Made-up logs in the manner of services that cannot be run here: a minority of the log text.

  generate.py OUT [FILES]      (OUT: a corpus folder, gets OUT/logs/gen-*.log)

Every file is a world of its own: form of the line's head, hosts, users, addresses, messages in use, their
frequencies, bursts and pace are drawn anew, so that only what logs have in common can be learnt.
"""

import json
import random
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path

WORDS = "alpha order user cart auth pay search index queue cache store sync proxy mail report image video billing stock event audit batch core edge gate node sched task data file config session".split()
USERS = "root admin alice bob carol dave deploy git jenkins postgres www-data nobody backup oracle hdfs yarn spark test guest mysql ubuntu chen wang maria olga".split()
EXCEPTIONS = "java.io.IOException java.net.SocketTimeoutException java.lang.NullPointerException java.lang.IllegalStateException java.util.concurrent.TimeoutException java.net.ConnectException java.io.EOFException".split()

# Fields in braces are drawn by World; a field's number (user1, user2) only makes its name unique.
GROUPS = {
    "dfs": (["dfs.DataNode", "dfs.DataNode$DataXceiver", "dfs.FSNamesystem", "datanode.BlockReceiver", "namenode.FSEditLog", "hdfs.StateChange"], [
        "Receiving block {blk} src: /{peer} dest: /{peer}", "Received block {blk} of size {size} from /{ip}", "PacketResponder {small} for block {blk} terminating",
        "BLOCK* NameSystem.addStoredBlock: blockMap updated: {ip}:{port} is added to {blk} size {size}", "BLOCK* NameSystem.allocateBlock: /{path}/part-{pad5}. {blk}",
        "Served block {blk} to /{ip}", "Verification succeeded for {blk}", "Deleting block {blk} file /{path}/{blk}", "BLOCK* ask {peer} to replicate {blk} to datanode(s) {peer}",
        "{peer}:Got exception while serving {blk} to /{ip}:", "writeBlock {blk} received exception {exc}: Connection reset by peer", "BLOCK* NameSystem.delete: {blk} is added to invalidSet of {peer}",
        "Number of transactions: {num} Total time for transactions(ms): {small} Number of syncs: {num}", "Rescanning after {num} milliseconds"]),
    "yarn": (["ResourceManager", "capacity.LeafQueue", "rmcontainer.RMContainerImpl", "containermanager.ContainerManagerImpl", "attempt.RMAppAttemptImpl", "mapred.Task"], [
        "{app} State change from RUNNING to FINISHING on event = ATTEMPT_UNREGISTERED", "{container} Container Transitioned from ACQUIRED to RUNNING", "Assigned container {container} of capacity <memory:{mem}, vCores:{small}> on host {host}:{port}",
        "USER={user}\tOPERATION=AM Allocated Container\tTARGET=SchedulerApp\tRESULT=SUCCESS\tAPPID={app}\tCONTAINERID={container}", "Start request for {container} by user {user}", "Memory usage of ProcessTree {pid} for container-id {container}: {mem} MB of {mem} MB physical memory used",
        "TaskAttempt: [attempt_{run}_m_{pad6}_0] is done from TaskTracker", "Task 'attempt_{run}_r_{pad6}_0' done.", "Progress of TaskAttempt attempt_{run}_m_{pad6}_0 is : {frac}", "Communication exception: {exc}"]),
    "spark": (["executor.Executor", "storage.BlockManager", "storage.MemoryStore", "scheduler.TaskSetManager", "scheduler.DAGScheduler", "broadcast.TorrentBroadcast", "storage.ShuffleBlockFetcherIterator", "rdd.HadoopRDD"], [
        "Running task {seq}.0 in stage {small}.0 (TID {tid})", "Finished task {seq}.0 in stage {small}.0 (TID {tid}). {num} bytes result sent to driver", "Block broadcast_{small} stored as values in memory (estimated size {frac} KB, free {frac} MB)",
        "Starting task {seq}.0 in stage {small}.0 (TID {tid}, {host}, executor {small}, partition {seq}, PROCESS_LOCAL, {num} bytes)", "Found block rdd_{small}_{seq} locally", "Input split: hdfs://{host}:{port}/{path}/{word}.log:{size}+{size}",
        "Got assigned task {tid}", "Reading broadcast variable {small} took {num} ms", "Getting {num} non-empty blocks out of {num} blocks", "Started {small} remote fetches in {small} ms", "Submitting {num} missing tasks from ResultStage {small}"]),
    "quorum": (["NIOServerCnxn", "NIOServerCnxnFactory", "ZooKeeperServer", "QuorumCnxManager", "FastLeaderElection", "Learner", "PrepRequestProcessor", "ClientCnxn"], [
        "Accepted socket connection from /{ip}:{port}", "Closed socket connection for client /{ip}:{port} which had sessionid {session}", "Established session {session} with negotiated timeout {round} for client /{ip}:{port}",
        "Client attempting to establish new session at /{ip}:{port}", "Processed session termination for sessionid: {session}", "Expiring session {session}, timeout of {round}ms exceeded", "Received connection request /{ip}:{port}",
        "Cannot open channel to {small} at election address /{ip}:{port}", "Connection broken for id {session}, my id = {small}, error =", "caught end of stream exception", "Notification: {small} (message format version), {small} (n.leader), 0x{hex} (n.zxid), LOOKING (n.state)"]),
    "linux": (["sshd[{pid}]", "sshd[{pid}]", "CRON[{pid}]", "kernel", "systemd[1]", "su[{pid}]", "sudo", "systemd-logind[{pid}]", "dhclient[{pid}]", "ftpd[{pid}]", "named[{pid}]", "NetworkManager[{pid}]"], [
        "Failed password for invalid user {user} from {ip} port {port} ssh2", "Failed password for {user} from {ip} port {port} ssh2", "Accepted publickey for {user} from {ip} port {port} ssh2: RSA SHA256:{b64}", "Invalid user {user} from {ip}", "Received disconnect from {ip} port {port}:11: Bye Bye [preauth]",
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={ip}  user={user}", "pam_unix(sshd:session): session opened for user {user} by (uid=0)", "session closed for user {user}", "check pass; user unknown", "reverse mapping checking getaddrinfo for {host}.example.net [{ip}] failed - POSSIBLE BREAK-IN ATTEMPT!",
        "({user}) CMD (/usr/local/bin/{word} --{word} > /dev/null 2>&1)", "[{uptime}] eth{digit}: link up, 1000 Mbps, full-duplex", "[{uptime}] IN=eth0 OUT= MAC={mac} SRC={ip} DST={ip} LEN={num} TTL={num} ID={port} PROTO=TCP SPT={port} DPT={port} WINDOW={port} SYN URGP=0", "Started Session {seq} of User {user}.",
        "{user} : TTY=pts/{digit} ; PWD=/home/{user} ; USER=root ; COMMAND=/usr/bin/{word}", "connection from {ip} ({host}.example.com) at {clock}", "DHCPREQUEST of {ip} on eth0 to {ip} port 67", "Out of memory: Killed process {pid} ({word}) total-vm:{size}kB, anon-rss:{size}kB", "{word}.service: Main process exited, code=exited, status={digit}/FAILURE", "New session {seq} of user {user}."]),
    "klog": (["reconciler.go:{line}", "kubelet.go:{line}", "scheduler.go:{line}", "controller.go:{line}", "round_trippers.go:{line}", "garbagecollector.go:{line}"], [
        '"MountVolume.SetUp succeeded for volume \\"{word}-token-{b5}\\" (UniqueName: \\"kubernetes.io/secret/{uuid}\\") pod \\"{word}-{b5}\\" (UID: \\"{uuid}\\")"', '"SyncLoop (PLEG): event for pod" pod="{word}/{word}-{hex}-{b5}" event=&{{ID:{uuid} Type:ContainerStarted Data:{hex}{hex}}}', 'GET https://{ip}:6443/api/v1/namespaces/{word}/pods/{word}-{b5} {status} OK in {small} milliseconds',
        '"Probe failed" probeType="Readiness" pod="{word}/{word}-{hex}-{b5}" podUID={uuid} containerName="{word}" probeResult=failure output="Get http://{ip}:{port}/healthz: dial tcp {ip}:{port}: connect: connection refused"', '"Successfully bound pod to node" pod="{word}/{word}-{hex}-{b5}" node="{host}" evaluatedNodes={small} feasibleNodes={small}', '"Finished syncing service" service="{word}/{word}" elapsed="{frac}ms"']),
    "web": (["{word}.service", "org.example.{word}.{cap}Controller", "com.acme.{word}.{cap}Service", "o.s.web.servlet.{cap}Servlet", "com.zaxxer.hikari.HikariPool"], [
        "{method} /api/{word}/{num} {status} {num}ms", "Request {uuid} completed in {num} ms", "User {user} logged in from {ip}", "Order {num} created for customer {num} total={frac}", "Slow query ({num} ms): select * from {word} where id = {num}", "Retrying request to https://{host}.example.com/{path} attempt {digit} of 5",
        "HikariPool-1 - Pool stats (total={small}, active={small}, idle={small}, waiting={digit})", "Cache {word} evicted {num} entries, hit ratio {frac}", "Unhandled exception {exc}: {word} {num}\n{trace}", "Message {uuid} published to topic {word}.{word} partition {digit} offset {seq}", "Connection to {ip}:{port} lost, reconnecting in {num} ms"]),
    "proxy": (["{word}d", "TCP_MISS", "TCP_HIT", "TCP_TUNNEL"], [
        "CONNECT {host}.example.net:443 {status} {num} DIRECT/{ip}", "{method} http://{host}.example.com/{path}?id={num} {status} {num} HIER_DIRECT/{ip} text/html", "{ip}:{port} connection to {host}.example.com:{port} refused", "{user} {host}.example.org:{port} {num} bytes up, {num} bytes down, {frac} s"]),
    "httpd": (["[notice]", "[error]", "[error]", "[warn]", "[info]"], [
        "Apache/2.{small}.{small} (Unix) configured -- resuming normal operations", "child pid {pid} exit signal Segmentation fault (11)", "[client {ip}] script not found or unable to stat: /var/www/cgi-bin/{word}", "[client {ip}] File does not exist: /var/www/{path}", "[client {ip}] Directory index forbidden by rule: /var/www/html/", "server reached MaxClients setting, consider raising the MaxClients setting", "caught SIGTERM, shutting down", "[client {ip}] client denied by server configuration: /var/www/{path}"]),
    "audit": (["USER_LOGIN", "USER_AUTH", "SYSCALL", "CRED_ACQ", "SERVICE_START", "EXECVE"], [
        "pid={pid} uid={num} auid={num} ses={small} subj=system_u:system_r:sshd_t:s0 msg='op=login acct=\"{user}\" exe=\"/usr/sbin/sshd\" hostname={ip} addr={ip} terminal=ssh res=failed'", "arch=c000003e syscall={num} success=yes exit={digit} a0={hex} a1={hex} a2={digit} items={digit} ppid={pid} pid={pid} auid={num} uid=0 gid=0 comm=\"{word}\" exe=\"/usr/bin/{word}\" key=\"{word}\"", "pid=1 uid=0 auid=4294967295 ses=4294967295 msg='unit={word} comm=\"systemd\" exe=\"/usr/lib/systemd/systemd\" hostname=? addr=? terminal=? res=success'", "argc={digit} a0=\"{word}\" a1=\"-{b5}\" a2=\"/{path}\""]),
    "cloud": (["nova.compute.manager", "nova.osapi_compute.wsgi.server", "nova.virt.libvirt.imagecache", "neutron.agent", "cinder.api", "keystone.middleware"], [
        "[req-{uuid} {hex} {hex} - - -] [instance: {uuid}] VM Started (Lifecycle Event)", '[req-{uuid} {hex} {hex} - - -] {ip} "{method} /v2/{hex}/servers/detail HTTP/1.1" status: {status} len: {num} time: {frac}', "image {uuid} at (/var/lib/{path}/{hex}): checking", "[instance: {uuid}] Took {frac} seconds to spawn the instance on the hypervisor.", "Active base files: /var/lib/{path}/{hex}"]),
}  # fmt: skip
# Java-like logs: date and its place among level, thread and class.
JAVA_DATES = ["%Y-%m-%d %H:%M:%S,MS", "%Y-%m-%d %H:%M:%S.MS", "%y/%m/%d %H:%M:%S", "%d %b %Y %H:%M:%S,MS", "%Y-%m-%dT%H:%M:%S.MSZ", "[%Y-%m-%d %H:%M:%S,MS]", "%H:%M:%S.MS", "%d-%b-%Y %H:%M:%S.MS"]  # fmt: skip
JAVA_HEADS = ["{d} {l} {c}: {m}", "{d} {t} {l} {c}: {m}", "{d} - {l:5} [{t}:{c}@{n}] - {m}", "{d} {l:5} [{t}] {c} - {m}", "{d} [{t}] {l} {c} - {m}", "{l} {d} {c}: {m}", "{d} {l}  {c}:{n} - {m}", "[{l}] {d} [{t}] {c} - {m}", "{d} {l:5} {p} --- [{t:>15}] {c:<40} : {m}"]  # fmt: skip
SYS_DATES = ["%b %e %H:%M:%S", "%b %e %H:%M:%S", "%Y-%m-%dT%H:%M:%S+00:00", "%Y-%m-%dT%H:%M:%S.US+02:00"]


class World:
    def __init__(self, seed):
        self.r = r = random.Random(seed)
        self.now = datetime(2004, 1, 1) + timedelta(seconds=r.randrange(22 * 365 * 86400))
        self.pace = 10 ** r.uniform(-3, 1.7)  # mean seconds between bursts
        self.users, self.words = r.sample(USERS, r.randrange(2, 14)), r.sample(WORDS, r.randrange(3, 20))
        net = f"{r.choice([10, 172, 192, 211, 83])}.{r.randrange(255)}"
        self.ips = [f"{net}.{r.randrange(9)}.{r.randrange(255)}" for _ in range(r.randrange(2, 60))]
        self.ips += [".".join(str(r.randrange(1, 255)) for _ in range(4)) for _ in range(r.randrange(20))]
        stem = r.choice(["node", "web", "db", "host", "srv", "dn", "vm", "gw", "r01-m0-n"])
        self.hosts = [f"{stem}{r.choice(['', '-'])}{r.randrange(400)}" for _ in range(r.randrange(1, 30))]
        self.paths = ["/".join(r.sample(WORDS, r.randrange(1, 4))) for _ in range(12)]
        self.port, self.size = r.choice([50010, 8080, 443, 2181, 9092, 3306]), r.choice([67108864, 134217728, r.randrange(9999), 4096])
        self.counts, self.blocks, self.sessions, self.pids = {}, [], [], [r.randrange(300, 32000) for _ in range(r.randrange(1, 12))]
        self.run = f"{r.randrange(10**12, 10**13)}_{r.randrange(1, 999):04}"
        self.block_form = r.choice(["blk_{n}", "blk_-{n}", "blk_{n}_{g}"])
        self.uuids = [self.uuid() for _ in range(r.randrange(1, 30))]
        self.recent = None

    def uuid(self):
        h = f"{self.r.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    def reuse(self, known, new, keep):
        """Mostly one of the last few, sometimes a new one: things are spoken of several times."""
        if not known or self.r.random() < keep:
            known.append(new())
            del known[:-12]
        return self.r.choice(known)

    def step(self, name, most):
        self.counts[name] = self.counts.get(name, self.r.randrange(5000)) + self.r.randrange(1, most + 1)
        return self.counts[name]

    def field(self, m):
        r, name = self.r, m[1].rstrip("0123456789") if m[1] not in ("pad5", "pad6", "b64", "b5") else m[1]
        block = lambda: self.block_form.format(n=r.randrange(10**17, 9 * 10**18), g=r.randrange(1000, 9999))
        made = {
            "blk": lambda: self.reuse(self.blocks, block, 0.25), "ip": lambda: r.choice(self.ips), "host": lambda: r.choice(self.hosts),
            "peer": lambda: f"{r.choice(self.ips)}:{self.port if r.random() < 0.5 else r.randrange(32768, 61000)}",
            "port": lambda: str(self.port if r.random() < 0.3 else r.randrange(32768, 61000)), "size": lambda: str(self.size if r.random() < 0.7 else r.randrange(10**7)),
            "small": lambda: str(r.choice([0, 1, 1, 2, 2, 3, 5, 8, r.randrange(64)])), "num": lambda: str(int(10 ** r.uniform(0.5, 5))), "digit": lambda: str(r.randrange(10)),
            "pid": lambda: str(self.reuse(self.pids, lambda: self.pids[-1] + r.randrange(1, 30) if self.pids else 999, 0.15)),
            "user": lambda: r.choice(self.users), "word": lambda: r.choice(self.words), "cap": lambda: r.choice(self.words).title(), "path": lambda: r.choice(self.paths),
            "exc": lambda: r.choice(EXCEPTIONS), "seq": lambda: str(self.step("seq", 1)), "tid": lambda: str(self.step("tid", 2)), "pad5": lambda: f"{self.step('p5', 1) % 99999:05}",
            "pad6": lambda: f"{self.step('p6', 1):06}", "frac": lambda: f"{r.expovariate(0.02):.{r.choice([1, 2, 2, 3])}f}", "round": lambda: str(r.choice([4000, 10000, 30000, 40000])),
            "session": lambda: self.reuse(self.sessions, lambda: f"0x{r.randrange(1, 9)}{r.getrandbits(56):014x}", 0.4), "hex": lambda: f"{r.getrandbits(32):08x}",
            "uuid": lambda: self.reuse(self.uuids, self.uuid, 0.2), "status": lambda: r.choice("200 200 200 200 201 204 301 302 304 403 404 500 502 503".split()), "method": lambda: r.choice(["GET", "GET", "GET", "POST", "PUT", "DELETE"]),
            "app": lambda: f"application_{self.run}", "container": lambda: f"container_{self.run}_01_{self.step('c', 1) % 10**6:06}", "run": lambda: self.run, "mem": lambda: str(r.choice([512, 1024, 2048, 4096, r.randrange(9000)])),
            "mac": lambda: ":".join(f"{r.randrange(256):02x}" for _ in range(6)), "uptime": lambda: f"{self.step('up', 40):5}.{r.randrange(10**6):06}", "clock": lambda: self.now.strftime("%a %b %d %H:%M:%S %Y") if r.random() < 0.5 else f"00:{r.randrange(60):02}",
            "b64": lambda: "".join(r.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=43)), "b5": lambda: "".join(r.choices("bcdfghjklmnpqrstvwxz2456789", k=5)), "line": lambda: str(r.randrange(50, 900)),
            "trace": lambda: "\n".join(f"\tat com.acme.{r.choice(self.words)}.{r.choice(self.words).title()}.{r.choice(['run', 'handle', 'process', 'call', 'get'])}({r.choice(self.words).title()}.java:{r.randrange(20, 600)})" for _ in range(r.randrange(3, 15))),
        }  # fmt: skip
        return made[name]()

    def fill(self, text):
        text = re.sub(r"(?<!\{)\{([a-z]+\d*)\}(?!\})", self.field, text)
        return text.replace("{{", "{").replace("}}", "}")

    def date(self, form):
        us = f"{self.r.randrange(10**6):06}" if self.pace > 0.5 else f"{self.now.microsecond:06}"
        return self.now.strftime(form.replace("%e", f"{self.now.day:2}").replace("MS", us[:3]).replace("US", us))


def one(seed):
    w = World(seed)
    r = w.r
    group = r.choice(list(GROUPS))
    classes, templates = GROUPS[group]
    templates = r.sample(templates, max(2, int(len(templates) * r.uniform(0.3, 1))))
    weights = [1 / (i + 1) ** r.uniform(0.3, 2) for i in range(len(templates))]
    classes = {t: r.choice(classes) for t in templates}
    levels = {t: r.choices(["INFO", "WARN", "ERROR", "DEBUG"], [14, 3, 2, 1])[0] for t in templates}
    threads = r.sample([f"pool-{r.randrange(1, 9)}-thread-{r.randrange(1, 20)}" for _ in range(6)] + ["main", f"IPC Server handler {r.randrange(9)} on {w.port}", f"http-nio-8080-exec-{r.randrange(9)}"] + [str(r.randrange(1, 4000)) for _ in range(9)], r.randrange(1, 8))  # fmt: skip
    java, java_date, sys_date, host, pid = r.choice(JAVA_HEADS), r.choice(JAVA_DATES), r.choice(SYS_DATES), r.choice(w.hosts), w.pids[0]
    wrap = r.choice([None] * 8 + ["docker", "cri", "logfmt", "json"])
    dollar = r.random() < 0.5  # short or long class names
    lines, size, want, t = [], 0, r.randrange(8000, 48000), None
    while size < want:
        # Bursts: the same kind of message several times in a row, with little time between.
        if t is None or r.random() < 0.55:
            t = r.choices(templates, weights)[0]
            w.now += timedelta(seconds=r.expovariate(1 / w.pace))
        else:
            w.now += timedelta(seconds=r.expovariate(1 / w.pace) / 50)
        c, m = w.fill(classes[t]), w.fill(t)
        if group == "linux":
            line = f"{w.date(sys_date)} {host} {c}: {m}"
        elif group == "klog":
            line = f"{levels[t][0]}{w.date('%m%d %H:%M:%S.US')} {pid:7} {c}] {m}"
        elif group == "proxy":
            line = f"{w.date('%Y/%m/%d %H:%M:%S' if dollar else '%Y-%m-%d %H:%M:%S')} {c} - {m}"
        elif group == "httpd":
            line = f"{w.date('[%a %b %d %H:%M:%S %Y]')} {c} {m}"
        elif group == "audit":
            line = f"type={c} msg=audit({w.now.timestamp():.3f}:{w.step('audit', 2)}): {m}"
        elif group == "cloud":
            line = f"{w.date('%Y-%m-%d %H:%M:%S.MS')} {pid} {levels[t]} {c} {m}"
        else:
            line = java.format(d=w.date(java_date), l=levels[t], c=c if dollar else c.split(".")[-1], t=r.choice(threads), n=100 + len(t) * 7, p=pid, m=m)
        iso = w.now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{w.now.microsecond:06}{r.randrange(1000):03}Z"
        if wrap == "docker":
            line = json.dumps({"log": line + "\n", "stream": "stderr" if levels[t] == "ERROR" else "stdout", "time": iso})
        elif wrap == "cri":
            line = f"{iso} stdout F {line}"
        elif wrap == "logfmt":
            line = f'time={iso[:19]}Z level={levels[t].lower()} component={c} msg="{m}"'
        elif wrap == "json":
            line = json.dumps({"timestamp": iso[:23] + "Z", "level": levels[t].lower(), "logger": c, "message": m, "host": host})
        lines.append(line)
        size += len(line) + 1
    return "\n".join(lines) + "\n"


def main():
    out = Path(sys.argv[1]) / "logs"
    out.mkdir(parents=True, exist_ok=True)
    for n in range(int(sys.argv[2]) if len(sys.argv) > 2 else 300):
        (out / f"gen-{n:04}.log").write_text(one(n))


if __name__ == "__main__":
    main()
