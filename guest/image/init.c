// SPDX-License-Identifier: Apache-2.0
// Init of the initramfs: load the modules, mount the root file system, go on with the init that lives there.
//
// Modules are the files in /modules, loaded in the order of their names. Of the kernel command line it knows
// root=DEVICE, rootflags=OPTIONS, ro and init=PROGRAM. When it can't go on it says why and ends; the kernel then panics,
// which the host of the guest notices at once.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WAIT_FOR_ROOT_MS = 10000, STEP_MS = 5 };

static void say(const char *format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text - 1, format, values);
    va_end(values);
    if (length > (int)sizeof text - 2)
        length = sizeof text - 2;
    text[length++] = '\n';

    // The kernel's log for `dmesg`, the console for the person who wonders; either may not be there yet.
    static const char *const places[] = {"/dev/kmsg", "/dev/console"};
    for (int i = 0; i < 2; i++) {
        int fd = open(places[i], O_WRONLY | O_NOCTTY | O_CLOEXEC);
        if (fd >= 0) {
            if (write(fd, text, length) < 0) { /* nowhere left to say it */ }
            close(fd);
        }
    }
}

// The value of NAME= in the command line, or NULL. With an empty name= part, whether the bare word is there.
static const char *option(char *line, const char *name, char *value, size_t size)
{
    size_t length = strlen(name);
    for (const char *word = line; *word;) {
        size_t end = strcspn(word, " \n");
        if (end >= length && !strncmp(word, name, length) && end - length < size) {
            memcpy(value, word + length, end - length);
            value[end - length] = 0;
            return value;
        }
        word += end;
        word += strspn(word, " \n");
    }
    return NULL;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void load_modules(void)
{
    struct dirent **names;
    int count = scandir("/modules", &names, visible, alphasort);
    for (int i = 0; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
            say("init: can't load %s: %s", names[i]->d_name, strerror(errno));
        close(fd);
    }
}

static int mount_root(const char *device, unsigned long flags, const char *options)
{
    for (int waited = 0; waited < WAIT_FOR_ROOT_MS; waited += STEP_MS) {
        if (!mount(device, "/root", "ext4", flags, options))
            return 0;
        if (errno != ENOENT && errno != ENXIO)
            return -1;
        usleep(STEP_MS * 1000);  // the device appears when its driver has found it
    }
    return -1;
}

int main(int argc, char **argv, char **environment)
{
    (void)argc;
    static char line[4096], device[256] = "/dev/vda1", options[256], program[256] = "/sbin/init", none[8];
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/root", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NOEXEC | MS_NODEV, "");
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, line, sizeof line - 1) < 0)
        say("init: can't read /proc/cmdline: %s", strerror(errno));
    close(fd);

    load_modules();

    option(line, "root=", device, sizeof device);
    option(line, "rootflags=", options, sizeof options);
    option(line, "init=", program, sizeof program);
    unsigned long flags = MS_NOATIME | (option(line, "ro", none, 1) ? MS_RDONLY : 0);
    if (mount_root(device, flags, options)) {
        say("init: can't mount the root file system %s: %s", device, strerror(errno));
        return 1;
    }

    mount("/dev", "/root/dev", NULL, MS_MOVE, NULL);
    mount("/proc", "/root/proc", NULL, MS_MOVE, NULL);
    if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) {
        say("init: can't change to the root file system: %s", strerror(errno));
        return 1;
    }
    int console = open("/dev/console", O_RDWR);
    for (int i = 0; i < 3 && console >= 0; i++)
        dup2(console, i);
    if (console > 2)
        close(console);
    argv[0] = program;
    execve(program, argv, environment);
    say("init: can't start %s: %s", program, strerror(errno));
    return 1;
}
