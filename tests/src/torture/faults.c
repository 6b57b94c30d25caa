/*
 * Makes calls of the system fail in the process that loads this (LD_PRELOAD), for files below one directory.
 *
 * Not by replacing functions of the C library: rustix calls the kernel itself. A seccomp filter has the kernel send
 * SIGSYS in place of the calls that are meant, and the handler does the call, or says that it failed. The one
 * instruction that the handler does calls with is let through. The filter stays over an exec and the handler does not:
 * the process must not become another program.
 *
 * UMBRA_FAULT_DIR    the directory, absolute
 * UMBRA_FAULT_PART   its first name below that ("open"; what is written aside in tmp/ for it counts too), or "any"
 * UMBRA_FAULT_CALL   write, sync, rename, create, or any
 * UMBRA_FAULT_ERROR  eio, enospc, or short (half of a write is done and told)
 * UMBRA_FAULT_WHEN   at, from, or one-in
 * UMBRA_FAULT_COUNT  the call that fails, counted from 1; the first that does; one in how many
 * UMBRA_FAULT_SEED   for one-in
 * UMBRA_FAULT_LOG    a file that gets a line for each call that failed
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

long umbra_call(long number, long a, long b, long c, long d, long e, long f);
extern char umbra_after_call[];

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
__asm__(".text\n"
        ".type umbra_call, @function\n"
        "umbra_call:\n"
        "  mov %rdi, %rax\n  mov %rsi, %rdi\n  mov %rdx, %rsi\n  mov %rcx, %rdx\n"
        "  mov %r8, %r10\n  mov %r9, %r8\n  mov 8(%rsp), %r9\n  syscall\n"
        "umbra_after_call:\n  ret\n");
#define RESULT(u) (u)->uc_mcontext.gregs[REG_RAX]
#define ARGUMENTS(u)                                                                              \
    {                                                                                             \
        (u)->uc_mcontext.gregs[REG_RDI], (u)->uc_mcontext.gregs[REG_RSI],                         \
            (u)->uc_mcontext.gregs[REG_RDX], (u)->uc_mcontext.gregs[REG_R10],                     \
            (u)->uc_mcontext.gregs[REG_R8], (u)->uc_mcontext.gregs[REG_R9]                        \
    }
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
__asm__(".text\n"
        ".type umbra_call, %function\n"
        "umbra_call:\n"
        "  mov x8, x0\n  mov x0, x1\n  mov x1, x2\n  mov x2, x3\n"
        "  mov x3, x4\n  mov x4, x5\n  mov x5, x6\n  svc #0\n"
        "umbra_after_call:\n  ret\n");
#define RESULT(u) (u)->uc_mcontext.regs[0]
#define ARGUMENTS(u)                                                                              \
    {                                                                                             \
        (u)->uc_mcontext.regs[0], (u)->uc_mcontext.regs[1], (u)->uc_mcontext.regs[2],             \
            (u)->uc_mcontext.regs[3], (u)->uc_mcontext.regs[4], (u)->uc_mcontext.regs[5]          \
    }
#else
#error "this machine's calls are not known here"
#endif

enum { WRITE = 1, SYNC = 2, RENAME = 4, CREATE = 8 };

static char dir[4096];
static size_t dir_len;
static const char *part;
static int calls;
static int error_number; /* 0: a short write */
static enum { AT, FROM, ONE_IN } when;
static unsigned long count;
static unsigned long seed;
static int log_file = -1;
static atomic_ulong passed;

static int class_of(long number, const long *a)
{
    switch (number) {
    case __NR_write: case __NR_pwrite64: case __NR_writev: case __NR_pwritev:
    case __NR_fallocate: case __NR_ftruncate:
        return WRITE;
    case __NR_fsync: case __NR_fdatasync: case __NR_sync_file_range:
        return SYNC;
#ifdef __NR_rename
    case __NR_rename:
#endif
    case __NR_renameat: case __NR_renameat2:
        return RENAME;
    case __NR_mkdirat:
        return CREATE;
    case __NR_openat:
        return a[2] & O_CREAT ? CREATE : 0;
    default:
        return 0;
    }
}

/* Writes what a descriptor stands for, and a name in it, to `path`. */
static void path_of(char *path, size_t size, int fd, const char *name)
{
    char link[32];
    long len = 0;
    if (name == NULL || name[0] != '/') {
        /* By hand: the handler may interrupt a function that snprintf uses. */
        char *at = link + sizeof link;
        *--at = 0;
        unsigned number = (unsigned)fd;
        do { *--at = (char)('0' + number % 10); number /= 10; } while (number);
        static const char head[] = "/proc/self/fd/";
        at -= sizeof head - 1;
        memcpy(at, head, sizeof head - 1);
        const char *from = fd == AT_FDCWD ? "/proc/self/cwd" : at;
        len = umbra_call(__NR_readlinkat, AT_FDCWD, (long)from, (long)path, (long)(size - 1), 0, 0);
        if (len < 0) len = 0;
        if (name != NULL && (size_t)len < size - 1) path[len++] = '/';
    }
    for (; name != NULL && *name && (size_t)len < size - 1; name++) path[len++] = *name;
    path[len] = 0;
}

static int is_meant(const char *path)
{
    if (strncmp(path, dir, dir_len) != 0 || path[dir_len] != '/') return 0;
    if (part == NULL) return 1;
    const char *name = path + dir_len + 1;
    size_t len = strlen(part);
    if (strncmp(name, "tmp/", 4) == 0)
        return strncmp(name + 4, part, len) == 0 && name[4 + len] == '_';
    return strncmp(name, part, len) == 0 && (name[len] == '/' || name[len] == 0);
}

static int is_time(void)
{
    unsigned long number = atomic_fetch_add(&passed, 1) + 1;
    if (when == AT) return number == count;
    if (when == FROM) return number >= count;
    unsigned long z = seed + number * 0x9e3779b97f4a7c15ul;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ul;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebul;
    return (z ^ (z >> 31)) % count == 0;
}

static long call_or_fail(long number, long *a)
{
    int class = class_of(number, a);
    char path[4096];
    if (class & calls) {
        if (number == __NR_openat || number == __NR_mkdirat)
            path_of(path, sizeof path, (int)a[0], (const char *)a[1]);
        else if (number == __NR_renameat || number == __NR_renameat2)
            path_of(path, sizeof path, (int)a[2], (const char *)a[3]);
#ifdef __NR_rename
        else if (number == __NR_rename)
            path_of(path, sizeof path, AT_FDCWD, (const char *)a[1]);
#endif
        else
            path_of(path, sizeof path, (int)a[0], NULL);
        int is_short = error_number == 0;
        int can = !is_short || number == __NR_write || number == __NR_pwrite64;
        if (can && !(is_short && a[2] < 2) && is_meant(path) && is_time()) {
            size_t len = strlen(path);
            path[len] = '\n';
            umbra_call(__NR_write, log_file, (long)path, (long)len + 1, 0, 0, 0);
            if (!is_short) return -error_number;
            a[2] /= 2;
        }
    }
    return umbra_call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void handler(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    ucontext_t *u = context;
    long a[6] = ARGUMENTS(u);
    RESULT(u) = call_or_fail(info->si_syscall, a);
}

static int call_classes(const char *text)
{
    if (strcmp(text, "write") == 0) return WRITE;
    if (strcmp(text, "sync") == 0) return SYNC;
    if (strcmp(text, "rename") == 0) return RENAME;
    if (strcmp(text, "create") == 0) return CREATE;
    return WRITE | SYNC | RENAME | CREATE;
}

static const char *setting(const char *name)
{
    const char *text = getenv(name);
    return text ? text : "";
}

__attribute__((constructor)) static void begin(void)
{
    const char *where = getenv("UMBRA_FAULT_DIR");
    if (where == NULL || strlen(where) >= sizeof dir) return;
    strcpy(dir, where);
    dir_len = strlen(dir);
    part = getenv("UMBRA_FAULT_PART");
    if (part != NULL && strcmp(part, "any") == 0) part = NULL;
    calls = call_classes(setting("UMBRA_FAULT_CALL"));
    const char *error = setting("UMBRA_FAULT_ERROR");
    error_number = strcmp(error, "short") == 0 ? 0 : strcmp(error, "enospc") == 0 ? ENOSPC : EIO;
    const char *time = setting("UMBRA_FAULT_WHEN");
    when = strcmp(time, "from") == 0 ? FROM : strcmp(time, "one-in") == 0 ? ONE_IN : AT;
    count = strtoul(setting("UMBRA_FAULT_COUNT"), NULL, 10);
    if (count == 0) count = 1;
    seed = strtoul(setting("UMBRA_FAULT_SEED"), NULL, 10);
    log_file = open(setting("UMBRA_FAULT_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    sigaction(SIGSYS, &action, NULL);

    unsigned long after = (unsigned long)umbra_after_call;
#define LOAD(field, add) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + (add))
#define TRAP_IF(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
    struct sock_filter filter[] = {
        LOAD(arch, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        LOAD(instruction_pointer, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)after, 0, 3),
        LOAD(instruction_pointer, 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(after >> 32), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        LOAD(nr, 0),
        TRAP_IF(__NR_write), TRAP_IF(__NR_pwrite64), TRAP_IF(__NR_writev), TRAP_IF(__NR_pwritev),
        TRAP_IF(__NR_fallocate), TRAP_IF(__NR_ftruncate),
        TRAP_IF(__NR_fsync), TRAP_IF(__NR_fdatasync), TRAP_IF(__NR_sync_file_range),
        TRAP_IF(__NR_renameat), TRAP_IF(__NR_renameat2), TRAP_IF(__NR_mkdirat),
#ifdef __NR_rename
        TRAP_IF(__NR_rename),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_openat, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        LOAD(args[2], 0),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_CREAT, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof filter[0], filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
        || syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) {
        fprintf(stderr, "umbra faults: no seccomp filter: %s\n", strerror(errno));
        _exit(77);
    }
}
