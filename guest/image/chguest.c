// SPDX-License-Identifier: Apache-2.0
// chguest: what a guest has to have to be part of a virtual cluster. One static program with two faces.
//
//   chguest agent               takes orders from the host of the guest over the virtio-serial port "chslurm.control"
//   chguest stage NAME          tells the host that a stage is reached
//   chguest ready               ... that the guest is ready for its job
//   chguest barrier NAME        ... that this guest has arrived, and waits until the host releases all
//   chguest job-started         ... that the job runs
//   chguest job-ended STATUS    ... that the job has ended
//   chguest failed TEXT         ... that something went wrong
//   chguest port NAME           prints the device file of the virtio-serial port of that name
//
// Host and agent exchange JSON objects, one a line. Orders have at most 64 KiB:
//
//   {"op":"put","name":"identity.sh","mode":"0600","text":"..."}   write /run/chslurm/NAME
//   {"op":"clock","unix_s":1700000000.123}                        set the clock, which came from a clock of whole seconds
//   {"op":"boot"}                                                 mount opt and meta, run boot.sh, once
//   {"op":"release","barrier":"NAME"}   {"op":"poweroff"}   {"op":"ping"}
//   {"op":"resize","rows":24,"columns":80}                        set the size of the console; since protocol 2
//
// Events have at most 2048 bytes: hello (again and again until the first order), stage, barrier, ready, job_started,
// job_ended, failed, pong. The agent knows nothing about the guest before its host has spoken, so a guest can be saved
// while it waits and be started many times.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONSOLE_PATH "/dev/hvc0"
#define RUN_DIR "/run/chslurm"
#define SOCKET_PATH RUN_DIR "/agent.sock"
#define BOOTED_PATH RUN_DIR "/booted"
#define BOOT_SCRIPT "/ch/opt/linux/boot.sh"
#define MOUNT_OPTIONS "trans=virtio,version=9p2000.L,msize=512000,cache=none"

enum {
    ORDER_MAX = 64 * 1024,
    EVENT_MAX = 2048,
    OUTBOX_MAX = 64 * 1024,
    TEXT_MAX = 800,      // bytes of a text in an event, before quoting
    NAME_MAX_BYTES = 64,
    FIELDS_MAX = 8,
    CLIENTS_MAX = 32,
    BARRIERS_MAX = 64,
    PROTOCOL = 2,        // in hello: which orders this agent knows; an unknown one is a failure
    SIZE_MAX_CELLS = 1000,  // of a terminal, in each direction
    HELLO_EVERY_MS = 2000,
    RETRY_MS = 50,       // while no host is connected the port gives no sign when one comes
    POWEROFF_WITHIN_MS = 20000,
};

// ---------------------------------------------------------------------------------------------- small things

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

// Names become file names and parts of events: letters, digits, and . _ - but no dot in front.
static int is_name(const char *text)
{
    size_t length = strlen(text);
    return length >= 1 && length <= NAME_MAX_BYTES && text[0] != '.' &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == length;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        size -= n;
    }
    return 0;
}

// Find the device file of a virtio-serial port without udev. Returns 0 when it is there.
static int find_port(const char *name, char *path, size_t size)
{
    DIR *ports = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    int found = -1;
    while (ports && found && (entry = readdir(ports))) {
        char file[320], text[128];
        snprintf(file, sizeof file, "/sys/class/virtio-ports/%s/name", entry->d_name);
        int fd = open(file, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        if (n < 0)
            continue;
        text[n] = 0;
        text[strcspn(text, "\n")] = 0;
        if (!strcmp(text, name)) {
            snprintf(path, size, "/dev/%s", entry->d_name);
            found = 0;
        }
    }
    if (ports)
        closedir(ports);
    return found;
}

// ---------------------------------------------------------------------------------------------- JSON, flat objects only

struct field {
    const char *key;
    const char *text;  // NULL when the value is a number
    double number;
};

struct object {
    int count;
    struct field fields[FIELDS_MAX];
};

static char *skip_space(char *s)
{
    return s + strspn(s, " \t\r\n");
}

static int hex4(const char *s)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int c = s[i] | 32;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *out, unsigned code)
{
    if (code < 0x80) {
        *out++ = code;
    } else if (code < 0x800) {
        *out++ = 0xc0 | code >> 6;
        *out++ = 0x80 | (code & 63);
    } else if (code < 0x10000) {
        *out++ = 0xe0 | code >> 12;
        *out++ = 0x80 | (code >> 6 & 63);
        *out++ = 0x80 | (code & 63);
    } else {
        *out++ = 0xf0 | code >> 18;
        *out++ = 0x80 | (code >> 12 & 63);
        *out++ = 0x80 | (code >> 6 & 63);
        *out++ = 0x80 | (code & 63);
    }
    return out;
}

// Read \uXXXX, or a pair of them, at *source (behind the u). Returns -1 for what is no character, or a NUL.
static long read_escape(char **source)
{
    long code = hex4(*source);
    if (code <= 0 || (code >= 0xdc00 && code < 0xe000))
        return -1;
    *source += 4;
    if (code < 0xd800 || code >= 0xe000)
        return code;
    if ((*source)[0] != '\\' || (*source)[1] != 'u')
        return -1;
    long low = hex4(*source + 2);
    if (low < 0xdc00 || low >= 0xe000)
        return -1;
    *source += 6;
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
}

// Decode the string at s (behind its opening quote) in place: no escape is shorter than what it stands for.
// Returns the place behind the closing quote, or NULL.
static char *read_string(char *s, const char **value)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char *out = s;
    *value = s;
    while (*s && *s != '"') {
        if (*s != '\\') {
            *out++ = *s++;
            continue;
        }
        s++;
        const char *letter = *s ? strchr(letters, *s) : NULL;
        if (letter) {
            *out++ = meanings[letter - letters];
            s++;
        } else if (*s == 'u') {
            s++;
            long code = read_escape(&s);
            if (code < 0)
                return NULL;
            out = put_utf8(out, code);
        } else {
            return NULL;
        }
    }
    if (*s != '"')
        return NULL;
    *out = 0;
    return s + 1;
}

// Read one flat object of strings and numbers out of a line, which is overwritten. Returns 0 when the line is one.
static int read_object(char *s, struct object *object)
{
    object->count = 0;
    s = skip_space(s);
    if (*s++ != '{')
        return -1;
    s = skip_space(s);
    if (*s == '}')
        return *skip_space(s + 1) ? -1 : 0;
    for (;;) {
        if (object->count == FIELDS_MAX)
            return -1;
        struct field *field = &object->fields[object->count++];
        s = skip_space(s);
        if (*s++ != '"' || !(s = read_string(s, &field->key)))
            return -1;
        s = skip_space(s);
        if (*s++ != ':')
            return -1;
        s = skip_space(s);
        if (*s == '"') {
            if (!(s = read_string(s + 1, &field->text)))
                return -1;
        } else {
            char *end;
            field->text = NULL;
            field->number = strtod(s, &end);
            if (end == s || !isfinite(field->number))
                return -1;
            s = end;
        }
        s = skip_space(s);
        if (*s == '}')
            return *skip_space(s + 1) ? -1 : 0;
        if (*s++ != ',')
            return -1;
    }
}

static const struct field *find_field(const struct object *object, const char *key)
{
    for (int i = 0; i < object->count; i++)
        if (!strcmp(object->fields[i].key, key))
            return &object->fields[i];
    return NULL;
}

// The text of a field; the empty text when there is no such field.
static const char *text_of(const struct object *object, const char *key)
{
    const struct field *field = find_field(object, key);
    return field && field->text ? field->text : "";
}

// Quote a text for an event: what is not printable ASCII becomes '?'.
static void quote(const char *text, char *out)
{
    *out++ = '"';
    for (int i = 0; text[i] && i < TEXT_MAX; i++) {
        unsigned char c = text[i];
        if (c == '"' || c == '\\')
            *out++ = '\\';
        *out++ = c >= ' ' && c < 127 ? c : '?';
    }
    *out++ = '"';
    *out = 0;
}

// ---------------------------------------------------------------------------------------------- the agent

struct client {
    int fd;              // -1: free
    size_t length;
    char line[1024];
    char barrier[NAME_MAX_BYTES + 1];  // not empty: waits for its release
};

static struct {
    int port;                          // -1 until the port is found
    int console;                       // -1 until its size was set
    int host_there;
    int orders_seen;
    int skipping;                      // inside an order that is too long
    size_t length;
    char order[ORDER_MAX + 1];
    size_t outbox_length;
    char outbox[OUTBOX_MAX];
    struct client clients[CLIENTS_MAX];
    int released_count;
    char released[BARRIERS_MAX][NAME_MAX_BYTES + 1];
    pid_t boot_script;
    int booted;
    pid_t poweroff;
    long poweroff_deadline_ms;         // 0: not asked for
} agent = {.port = -1, .console = -1};

static void flush_outbox(void)
{
    while (agent.port >= 0 && agent.outbox_length) {
        ssize_t n = write(agent.port, agent.outbox, agent.outbox_length);
        if (n <= 0)
            return;  // no host there, or it does not read: later
        agent.outbox_length -= n;
        memmove(agent.outbox, agent.outbox + n, agent.outbox_length);
    }
}

// Send one event. When the host has not read for very long, the event is dropped: orders still have to be served.
static void send_event(const char *format, ...)
{
    char line[EVENT_MAX];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line - 1, format, values);
    va_end(values);
    if (length < 0 || length > (int)sizeof line - 2 || agent.outbox_length + length + 1 > OUTBOX_MAX) {
        fprintf(stderr, "chguest: event dropped\n");
        return;
    }
    line[length++] = '\n';
    memcpy(agent.outbox + agent.outbox_length, line, length);
    agent.outbox_length += length;
    flush_outbox();
}

static void send_failed(const char *format, ...)
{
    char text[TEXT_MAX + 1], quoted[2 * TEXT_MAX + 3];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    fprintf(stderr, "chguest: %s\n", text);
    quote(text, quoted);
    send_event("{\"event\":\"failed\",\"text\":%s}", quoted);
}

static void send_hello(void)
{
    struct utsname system;
    char kernel[2 * TEXT_MAX + 3];
    uname(&system);
    quote(system.release, kernel);
    send_event("{\"event\":\"hello\",\"protocol\":%d,\"kernel\":%s,\"uptime_s\":%.2f}", PROTOCOL, kernel,
               now_ms() / 1000.0);
}

static void send_stage(const char *name)
{
    send_event("{\"event\":\"stage\",\"name\":\"%s\",\"uptime_s\":%.2f}", name, now_ms() / 1000.0);
}

// Start a program in a session of its own, without what makes the agent special. Returns its pid.
static pid_t start_program(char *const argv[])
{
    pid_t child = fork();
    if (child)
        return child;
    setsid();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0 && write_all(score, "0", 1)) { /* only a preference */ }
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    dup2(null, 0);
    if (console >= 0) {
        dup2(console, 1);
        dup2(console, 2);
    }
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("LANG", "C.UTF-8", 1);
    execv(argv[0], argv);
    _exit(127);
}

// ---- orders

static int mount_share(const char *tag, const char *place, unsigned long flags)
{
    mkdir("/ch", 0755);
    mkdir(place, 0755);
    if (!mount(tag, place, "9p", flags | MS_NOSUID | MS_NODEV, MOUNT_OPTIONS))
        return 0;
    send_failed("can't mount share %s at %s: %s", tag, place, strerror(errno));
    return -1;
}

static void order_boot(void)
{
    if (agent.booted) {
        send_failed("boot was ordered twice");
        return;
    }
    agent.booted = 1;
    close(open(BOOTED_PATH, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (mount_share("opt", "/ch/opt", MS_RDONLY) || mount_share("meta", "/ch/meta", 0))
        return;
    send_stage("mounted");
    char *const argv[] = {BOOT_SCRIPT, NULL};
    agent.boot_script = start_program(argv);
    if (agent.boot_script < 0)
        send_failed("can't start " BOOT_SCRIPT ": %s", strerror(errno));
}

// Write aside and rename: a reader sees the old file or the whole new one.
static void order_put(const struct object *order)
{
    const char *name = text_of(order, "name"), *text = text_of(order, "text"), *mode_text = text_of(order, "mode");
    char *end, aside[128], path[128];
    long mode = *mode_text ? strtol(mode_text, &end, 8) : 0600;
    if (!is_name(name) || (*mode_text && *end) || mode < 0 || mode > 0777) {
        send_failed("put: bad name or mode");
        return;
    }
    snprintf(aside, sizeof aside, RUN_DIR "/.%s", name);
    snprintf(path, sizeof path, RUN_DIR "/%s", name);
    unlink(aside);
    int fd = open(aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int bad = fd < 0 || fchmod(fd, mode) || write_all(fd, text, strlen(text));
    if (fd >= 0 && close(fd))
        bad = 1;
    if (bad || rename(aside, path)) {
        send_failed("can't write %s: %s", path, strerror(errno));
        unlink(aside);
    }
}

// The kernel read whole seconds from the hardware's clock, so it is late by up to one: files that the host's user just
// wrote would be from the future, which make and ls tell. The order is late, too, by what it took to come here.
static void order_clock(const struct object *order)
{
    const struct field *field = find_field(order, "unix_s");
    if (!field || field->text || field->number < 0 || field->number > 1e11) {
        send_failed("clock: no time in it");
        return;
    }
    struct timespec then = {.tv_sec = (time_t)field->number};
    then.tv_nsec = (long)((field->number - then.tv_sec) * 1e9);
    if (clock_settime(CLOCK_REALTIME, &then))
        send_failed("can't set the clock: %s", strerror(errno));
}

static void answer(struct client *client, const char *text)
{
    if (write(client->fd, text, strlen(text)) < 0) { /* it went away */ }
    close(client->fd);
    client->fd = -1;
    client->barrier[0] = 0;
}

static int is_released(const char *name)
{
    for (int i = 0; i < agent.released_count; i++)
        if (!strcmp(agent.released[i], name))
            return 1;
    return 0;
}

// A release is remembered: it may come before anybody waits for it.
static void order_release(const struct object *order)
{
    const char *name = text_of(order, "barrier");
    if (!is_name(name) || (!is_released(name) && agent.released_count == BARRIERS_MAX)) {
        send_failed("release: bad barrier name, or too many barriers");
        return;
    }
    if (!is_released(name))
        strcpy(agent.released[agent.released_count++], name);
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (agent.clients[i].fd >= 0 && !strcmp(agent.clients[i].barrier, name))
            answer(&agent.clients[i], "ok\n");
}

static void order_poweroff(void)
{
    if (agent.poweroff_deadline_ms)
        return;
    char *const argv[] = {"/bin/systemctl", "--no-block", "start", "poweroff.target", NULL};
    agent.poweroff = start_program(argv);
    agent.poweroff_deadline_ms = now_ms() + POWEROFF_WITHIN_MS;
}

// The number of a field; 0 when there is no such field, or a text in it.
static double number_of(const struct object *order, const char *key)
{
    const struct field *field = find_field(order, key);
    return field && !field->text ? field->number : 0;
}

// Give the console the size of the terminal that shows it. Its foreground job gets SIGWINCH. A size that can't be set
// is no reason to end a guest. The console stays open, since the kernel forgets the size with the last who has it
// open; the next order opens it anew, since a login begins with hanging up all who do.
static void order_resize(const struct object *order)
{
    double rows = number_of(order, "rows"), columns = number_of(order, "columns");
    if (!(rows >= 1 && rows <= SIZE_MAX_CELLS && columns >= 1 && columns <= SIZE_MAX_CELLS)) {
        fprintf(stderr, "chguest: resize: bad size\n");
        return;
    }
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    int console = open(CONSOLE_PATH, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (console < 0 || ioctl(console, TIOCSWINSZ, &size))
        fprintf(stderr, "chguest: can't set the size of " CONSOLE_PATH ": %s\n", strerror(errno));
    if (agent.console >= 0)
        close(agent.console);
    agent.console = console;
}

static void power_off_now(void)
{
    sync();
    reboot(RB_POWER_OFF);
}

static void obey(char *line)
{
    struct object order;
    agent.orders_seen = 1;
    if (read_object(line, &order)) {
        send_failed("an order is not a flat JSON object");
        return;
    }
    const char *op = text_of(&order, "op");
    if (!strcmp(op, "put"))
        order_put(&order);
    else if (!strcmp(op, "clock"))
        order_clock(&order);
    else if (!strcmp(op, "boot"))
        order_boot();
    else if (!strcmp(op, "release"))
        order_release(&order);
    else if (!strcmp(op, "poweroff"))
        order_poweroff();
    else if (!strcmp(op, "resize"))
        order_resize(&order);
    else if (!strcmp(op, "ping"))
        send_event("{\"event\":\"pong\"}");
    else
        send_failed("unknown order '%.40s'", op);
}

// Read what the host has sent. Without a host a read ends at once, like at the end of a file.
static void read_port(void)
{
    ssize_t n = read(agent.port, agent.order + agent.length, ORDER_MAX - agent.length);
    if (n <= 0) {
        agent.host_there = n < 0 && (errno == EAGAIN || errno == EINTR);
        return;
    }
    agent.length += n;
    char *start = agent.order, *end;
    while ((end = memchr(start, '\n', agent.length))) {
        *end = 0;
        if (agent.skipping)
            agent.skipping = 0;
        else if (strlen(start) != (size_t)(end - start))
            send_failed("an order has a NUL byte in it");
        else
            obey(start);
        agent.length -= end + 1 - start;
        start = end + 1;
    }
    memmove(agent.order, start, agent.length);
    if (agent.length == ORDER_MAX) {
        if (!agent.skipping)
            send_failed("an order is longer than %d bytes", ORDER_MAX);
        agent.skipping = 1;
        agent.length = 0;
    }
}

// ---- clients

static const char *serve_words(struct client *client, const char *verb, const char *rest)
{
    char quoted[2 * TEXT_MAX + 3], *end;
    if (!strcmp(verb, "failed")) {
        quote(rest, quoted);
        send_event("{\"event\":\"failed\",\"text\":%s}", quoted);
    } else if (!strcmp(verb, "stage") && is_name(rest)) {
        send_stage(rest);
    } else if (!strcmp(verb, "barrier") && is_name(rest)) {
        send_event("{\"event\":\"barrier\",\"name\":\"%s\"}", rest);
        if (!is_released(rest)) {
            strcpy(client->barrier, rest);
            return NULL;
        }
    } else if (!strcmp(verb, "ready") && !*rest) {
        send_event("{\"event\":\"ready\"}");
    } else if (!strcmp(verb, "job-started") && !*rest) {
        send_event("{\"event\":\"job_started\"}");
    } else if (!strcmp(verb, "job-ended")) {
        long status = strtol(rest, &end, 10);
        if (!*rest || *end || status < 0 || status > 255)
            return "error: a status is a number from 0 to 255\n";
        send_event("{\"event\":\"job_ended\",\"status\":%ld}", status);
    } else {
        return "error: unknown word, or a bad name\n";
    }
    return "ok\n";
}

static void read_client(struct client *client)
{
    ssize_t n = read(client->fd, client->line + client->length, sizeof client->line - 1 - client->length);
    if (n <= 0) {
        close(client->fd);
        client->fd = -1;
        return;
    }
    client->length += n;
    client->line[client->length] = 0;
    char *end = strchr(client->line, '\n');
    if (client->barrier[0] || (!end && client->length == sizeof client->line - 1)) {
        answer(client, "error: too much text\n");
    } else if (end) {
        *end = 0;
        char *rest = client->line + strcspn(client->line, " ");
        if (*rest)
            *rest++ = 0;
        const char *text = serve_words(client, client->line, rest);
        if (text)
            answer(client, text);
    }
}

static void accept_client(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (int i = 0; i < CLIENTS_MAX && fd >= 0; i++)
        if (agent.clients[i].fd < 0) {
            agent.clients[i] = (struct client){.fd = fd};
            return;
        }
    if (fd >= 0)
        close(fd);
}

static int open_listener(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(SOCKET_PATH);
    mode_t before = umask(0077);
    int bad = fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, CLIENTS_MAX);
    umask(before);
    if (bad) {
        perror("chguest: " SOCKET_PATH);
        exit(1);
    }
    return fd;
}

// ---- the loop

static void reap_children(void)
{
    int status;
    for (pid_t child; (child = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (child == agent.boot_script && status) {
            if (WIFSIGNALED(status))
                send_failed(BOOT_SCRIPT " was killed by signal %d", WTERMSIG(status));
            else
                send_failed(BOOT_SCRIPT " ended with status %d", WEXITSTATUS(status));
        }
        if (child == agent.poweroff && status)
            power_off_now();
    }
}

static void on_child(int signal)
{
    (void)signal;  // its only use is to end ppoll
}

static void run_once(int listener, const sigset_t *while_waiting, long *next_hello_ms)
{
    char path[320];
    if (agent.port < 0 && !find_port("chslurm.control", path, sizeof path))
        agent.port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (!agent.orders_seen && now_ms() >= *next_hello_ms && agent.port >= 0) {
        if (!agent.outbox_length)
            send_hello();
        *next_hello_ms = now_ms() + HELLO_EVERY_MS;
    }
    flush_outbox();

    struct pollfd fds[CLIENTS_MAX + 2] = {{listener, POLLIN, 0}, {-1, POLLIN, 0}};
    if (agent.port >= 0 && agent.host_there) {
        fds[1].fd = agent.port;
        fds[1].events |= agent.outbox_length ? POLLOUT : 0;
    }
    for (int i = 0; i < CLIENTS_MAX; i++)
        fds[i + 2] = (struct pollfd){agent.clients[i].fd, POLLIN, 0};
    long wait_ms = agent.host_there ? (agent.orders_seen ? 60000 : HELLO_EVERY_MS) : RETRY_MS;
    if (agent.poweroff_deadline_ms && wait_ms > 1000)
        wait_ms = 1000;
    struct timespec wait = {wait_ms / 1000, wait_ms % 1000 * 1000000};
    if (ppoll(fds, CLIENTS_MAX + 2, &wait, while_waiting) < 0)
        memset(fds, 0, sizeof fds);

    reap_children();
    if (agent.poweroff_deadline_ms && now_ms() > agent.poweroff_deadline_ms)
        power_off_now();
    if (agent.port >= 0 && (fds[1].revents || !agent.host_there)) {
        agent.host_there = 1;
        read_port();
    }
    for (int i = 0; i < CLIENTS_MAX; i++)
        if (fds[i + 2].revents && agent.clients[i].fd == fds[i + 2].fd)
            read_client(&agent.clients[i]);
    if (fds[0].revents)
        accept_client(listener);
}

static _Noreturn void run_agent(void)
{
    sigset_t blocked, while_waiting;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, &while_waiting);
    sigdelset(&while_waiting, SIGCHLD);
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child}, NULL);
    signal(SIGPIPE, SIG_IGN);
    umask(0022);

    // Without the agent the guest is lost, so memory shortage has to take others first.
    int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0) {
        if (write_all(score, "-1000", 5)) { /* only a preference */ }
        close(score);
    }
    for (int i = 0; i < CLIENTS_MAX; i++)
        agent.clients[i].fd = -1;
    mkdir(RUN_DIR, 0755);
    // One that was started again goes on where the other ended: the host has said all and does not wait for a hello.
    agent.booted = agent.orders_seen = !access(BOOTED_PATH, F_OK);
    int listener = open_listener();
    long next_hello_ms = 0;
    for (;;)
        run_once(listener, &while_waiting, &next_hello_ms);
}

// ---------------------------------------------------------------------------------------------- the client

static int run_client(const char *verb, const char *rest)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    char line[1024], reply[256];
    int length = snprintf(line, sizeof line, "%s%s%.*s", verb, *rest ? " " : "", TEXT_MAX, rest);
    for (int i = 0; i < length; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[length++] = '\n';
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) || write_all(fd, line, length)) {
        fprintf(stderr, "chguest: can't reach the agent at " SOCKET_PATH ": %s\n", strerror(errno));
        return 1;
    }
    ssize_t n;
    while ((n = read(fd, reply, sizeof reply - 1)) < 0 && errno == EINTR)
        ;
    if (n <= 0) {
        fprintf(stderr, "chguest: the agent went away\n");
        return 1;
    }
    reply[n] = 0;
    if (!strcmp(reply, "ok\n"))
        return 0;
    fprintf(stderr, "chguest: %s", reply);
    return 1;
}

int main(int argc, char **argv)
{
    char path[320];
    const char *verb = argc > 1 ? argv[1] : "", *rest = argc > 2 ? argv[2] : "";
    int takes_text = !strcmp(verb, "stage") || !strcmp(verb, "barrier") || !strcmp(verb, "job-ended") ||
                     !strcmp(verb, "failed") || !strcmp(verb, "port");
    int known = takes_text || !strcmp(verb, "agent") || !strcmp(verb, "ready") || !strcmp(verb, "job-started");
    if (!known || argc != 2 + takes_text) {
        fprintf(stderr, "usage: chguest agent | stage NAME | ready | barrier NAME | job-started | job-ended STATUS |"
                        " failed TEXT | port NAME\n");
        return 64;
    }
    if (!strcmp(verb, "agent"))
        run_agent();
    if (strcmp(verb, "port"))
        return run_client(verb, rest);
    if (find_port(rest, path, sizeof path)) {
        fprintf(stderr, "chguest: no virtio-serial port named %s\n", rest);
        return 1;
    }
    puts(path);
    return 0;
}
