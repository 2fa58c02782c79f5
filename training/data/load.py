"""Loads for record.sh: load.py web|proxy|mail|dns|sql|zookeeper PORT...; bounded, loopback only."""

import http.client
import random
import smtplib
import socket
import struct
import sys
import time

rng = random.Random(7)
WORDS = "news shop item user login search image report order cart admin static blog post page list view edit data file photo map help info mail".split()
AGENTS = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{v}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{v}.0) Gecko/20100101 Firefox/{v}.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
    "curl/7.{v}.0", "Wget/1.21.3", "python-requests/2.{v}.1", "Googlebot/2.1 (+http://www.google.com/bot.html)", "-",
]  # fmt: skip
SITES = ["https://www.example.com/", "https://search.example.net/q?s=shoes", "-", "-", "-", "http://forum.example.org/t/1931"]


def source():
    return f"127.{rng.randrange(250)}.{rng.randrange(250)}.{rng.randrange(1, 250)}"


def path():
    fixed = "/ / /index.html /about.html /robots.txt /img/logo.png /img/a.jpg /style.css /app.js /api/items /private/x /app/login /favicon.ico /wp-login.php /.env".split()
    if rng.random() < 0.6:
        return rng.choice(fixed)
    p = "/" + "/".join(rng.choices(WORDS, k=rng.randrange(1, 4)))
    return p + rng.choice(["", ".html", ".php", "/", f"?id={rng.randrange(9999)}", f"?page={rng.randrange(40)}&sort={rng.choice(WORDS)}"])


def web(*ports):
    for _ in range(900):
        visitor, agent = source(), rng.choice(AGENTS).format(v=rng.randrange(70, 125))
        try:
            c = http.client.HTTPConnection("127.0.0.1", int(rng.choice(ports)), timeout=3, source_address=(visitor, 0))
            for _ in range(rng.randrange(1, 14)):
                c.request(rng.choices(["GET", "POST", "HEAD"], [30, 3, 1])[0], path(), headers={"User-Agent": agent, "Referer": rng.choice(SITES)})
                c.getresponse().read()
            c.close()
        except (OSError, http.client.HTTPException):
            pass


def proxy(port, origin):
    for _ in range(1200):
        try:
            c = http.client.HTTPConnection("127.0.0.1", int(port), timeout=3, source_address=(source(), 0))
            c.request("GET", f"http://127.0.0.1:{origin}{path()}")
            c.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass


def mail(port):
    for _ in range(500):
        who, domain = rng.choice(WORDS) + str(rng.randrange(99)), rng.choice(["example.com", "example.net", "lists.example.org"])
        try:
            s = smtplib.SMTP("127.0.0.1", int(port), local_hostname=f"{rng.choice(WORDS)}.{domain}", timeout=5, source_address=(source(), 0))
            to = [f"{rng.choice(WORDS)}@{rng.choice(['mail.example.org', 'localhost', 'elsewhere.invalid'])}" for _ in range(rng.randrange(1, 3))]
            s.sendmail(f"{who}@{domain}", to, f"Subject: {rng.choice(WORDS)}\n\n" + "x " * rng.randrange(900))
            s.quit()
        except (OSError, smtplib.SMTPException):
            pass


def dns(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(2500):
        name = rng.choice(["www", "mail", "ns", *WORDS]) + rng.choice([".example.org", ".example.org", ".example.com", ".internal.test"])
        query = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0" + struct.pack(">HH", rng.choice([1, 1, 28, 15, 16]), 1)
        s.sendto(struct.pack(">6H", rng.randrange(65536), 256, 1, 0, 0, 0) + query, ("127.0.0.1", int(port)))
        time.sleep(0.001)


def sql():
    print("create database shop; use shop; create table items(id int primary key auto_increment, name varchar(40), price decimal(8,2), stock int);")
    for _ in range(1500):
        n, w = rng.randrange(1, 400), rng.choice(WORDS)
        print(rng.choice([
            f"insert into items(name, price, stock) values('{w}', {rng.randrange(9999) / 100}, {n});", f"select * from items where id = {n};",
            f"update items set stock = stock - 1 where id = {n};", f"select name, sum(price) from items group by name order by name limit {n % 20 + 1};",
            f"select id from {w}s where x = {n};", f"delete from items where id = {n};",
        ]))  # fmt: skip


def zookeeper(*ports):
    """Sessions opened, closed well, dropped, and spoken to wrongly."""
    for _ in range(250):
        try:
            c = socket.create_connection(("127.0.0.1", int(rng.choice(ports))), timeout=2, source_address=(source(), 0))
            kind = rng.random()
            if kind < 0.35:
                c.sendall(rng.choice([b"ruok", b"stat", b"mntr", b"cons", b"srvr"]))
            else:
                session = rng.getrandbits(62) if rng.random() < 0.3 else 0
                c.sendall(struct.pack(">iiqiqi", 44, 0, 0, rng.choice([2000, 4000, 10000]), session, 16) + bytes(16))
            c.recv(4096)
            if 0.35 <= kind < 0.7:
                c.sendall(struct.pack(">iii", 8, 1, -11))
                c.recv(100)
            c.close()
        except OSError:
            pass


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
