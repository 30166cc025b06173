/* plugin_program.c - a program as a kernel: it is given a folder with input.safetensors and
 * problem.json, and writes output.safetensors there. --exec starts it once and sends a line of JSON
 * for each case; --exec-once starts it for each. docs/validate.md, section 11. */
#define _GNU_SOURCE /* nftw, asprintf */
#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/operand.h"
#include "common/problem.h"
#include "common/clock.h"
#include "validate/kernels/cleanup.h"
#include "validate/kernels/plugin.h"
#include "validate/cases/tensors.h"
#include "validate/text/visible.h"

enum { MAX_LINE = 65536, PROTOCOL = 1, EXIT_UNSUPPORTED = 77 };

/* ---- lines of JSON ---- */

static ifa_verdict garbage(ifa_kernel *k, ifa_message *message, const char *what,
                           const char *line) {
  ifa_process_end(&k->process); /* what it would say next answers nobody's question */
  ifa_fail(message, IFA_BAD_DATA,
           "%s: '%s' (only answers go to standard output, the rest to standard error)", what,
           ifa_shorten(line).text);
  return IFA_BAD_OUTPUT;
}

/* What a message says of a file of the case, without the folder, which is gone when it is read.
 * ifa_quote makes the same of a path each time. */
static void hide_folder(ifa_message *message, const char *path, const char *name) {
  ifa_quoted quoted = ifa_quote(path);
  ifa_message before = *message;
  const char *at = strstr(before.text, quoted.text);
  if (!at) return;
  snprintf(message->text, sizeof message->text, "%.*s%s%s", (int)(at - before.text), before.text,
           name, at + strlen(quoted.text));
}

static ifa_verdict send_json(ifa_kernel *k, const json_t *json, double deadline,
                             ifa_message *message) {
  char *text = json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER);
  if (!text) {
    ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a request");
    return IFA_FAILED;
  }
  ifa_verdict verdict = ifa_process_send(&k->process, text, strlen(text), deadline, message);
  if (verdict == IFA_PASSED) verdict = ifa_process_send(&k->process, "\n", 1, deadline, message);
  free(text);
  return verdict;
}

static ifa_verdict receive_json(ifa_kernel *k, json_t **json, double deadline,
                                ifa_message *message) {
  char *line = malloc(MAX_LINE);
  ifa_verdict verdict = IFA_PASSED;
  size_t length = 0;
  *json = NULL;
  if (!line) {
    ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for an answer");
    return IFA_FAILED;
  }
  for (;;) { /* by single bytes: an answer is short, and nothing behind it is taken */
    verdict = ifa_process_receive(&k->process, line + length, 1, deadline, message);
    if (verdict != IFA_PASSED || line[length] == '\n') break;
    if (++length == MAX_LINE - 1) break;
  }
  line[length] = '\0';
  if (verdict == IFA_PASSED && length == MAX_LINE - 1)
    verdict = garbage(k, message, "its answer is longer than 65534 bytes", line);
  else if (verdict == IFA_PASSED &&
           (!(*json = json_loads(line, 0, NULL)) || !json_is_object(*json))) {
    json_decref(*json);
    *json = NULL;
    verdict = garbage(k, message, "its answer is not a JSON object", line);
  }
  free(line);
  return verdict;
}

static const char *text_of(const json_t *json, const char *key, const char *otherwise) {
  const char *text = json_string_value(json_object_get(json, key));
  return text ? text : otherwise;
}

/* "status": "ok", "unsupported", "not available"; anything else is a failure. */
static ifa_verdict judge_answer(const json_t *json, ifa_message *message) {
  const char *status = text_of(json, "status", "missing");
  if (strcmp(status, "ok") == 0) return IFA_PASSED;
  ifa_fail(message, IFA_BAD_DATA, "%s: '%s'", status, text_of(json, "message", ""));
  return strcmp(status, "unsupported") == 0     ? IFA_NOT_SUPPORTED
         : strcmp(status, "not available") == 0 ? IFA_ABSENT
                                                : IFA_FAILED;
}

/* ---- starting ---- */

enum { MAX_WORD = 4096 };

/* The first word of a command, without quotes around it; "" if it is not that simple. */
static void first_word(const char *command, char word[MAX_WORD]) {
  command += strspn(command, " \t");
  const char *begin = command + (*command == '\'' || *command == '"');
  size_t length =
      begin > command ? strcspn(begin, (char[]){*command, '\\', '\0'}) : strcspn(begin, " \t'\"\\");
  const char *end = begin + length + (begin > command && begin[length]);
  word[0] = '\0';
  if (length >= MAX_WORD || (*end && *end != ' ' && *end != '\t')) return;
  memcpy(word, begin, length);
  word[length] = '\0';
}

/* Is it the path of a program, or the name of one in PATH? Then it is not a word that only the
 * shell knows (exec, eval, ., if). */
static int is_program(const char *word) {
  const char *path = getenv("PATH");
  if (!*word || strchr(word, '/')) return *word != '\0';
  for (const char *at = path ? path : "/usr/bin:/bin"; *at;) {
    char *file = NULL;
    size_t length = strcspn(at, ":");
    if (asprintf(&file, "%.*s/%s", length ? (int)length : 1, length ? at : ".", word) < 0) return 0;
    struct stat about;
    int found = stat(file, &about) == 0 && S_ISREG(about.st_mode) && access(file, X_OK) == 0;
    free(file);
    if (found) return 1;
    at += length + (at[length] == ':');
  }
  return 0;
}

/* The command with `argument` behind it, for sh -c; to be freed, NULL without memory. A plain
 * program takes the shell's place, so that its end is seen as it is. */
static char *shell_command(const char *text, const char *argument) {
  char word[MAX_WORD], *command = NULL;
  first_word(text, word);
  int plain = !strpbrk(text, ";&|<>()$`=\n") && is_program(word);
  return asprintf(&command, "%s%s%s", plain ? "exec " : "", text, argument) < 0 ? NULL : command;
}

static const char *temporary_base(void) {
  const char *base = getenv("TMPDIR");
  return base && *base ? base : "/tmp";
}

static ifa_status make_folder(ifa_kernel *k, ifa_message *message) {
  char *folder = NULL;
  sigset_t before;
  if (k->folder) return IFA_OK;
  if (k->kind == IFA_KERNEL_PROGRAM && !ifa_is_utf8(temporary_base()))
    return ifa_fail(message, IFA_UNSUPPORTED,
                    "the folder %s (TMPDIR) is not UTF-8, which a request in JSON must be",
                    ifa_shorten(temporary_base()).text);
  if (asprintf(&folder, "%s/ifa-plugin-XXXXXX", temporary_base()) < 0)
    return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a folder's name");
  ifa_cleanup_hold(&before);
  if (mkdtemp(folder)) ifa_cleanup_add_folder(k->folder = folder);
  int error = errno;
  ifa_cleanup_release(&before);
  if (k->folder) return IFA_OK;
  free(folder);
  return ifa_fail(message, IFA_IO, "no folder for the cases can be made in %s (TMPDIR): %s",
                  ifa_shorten(temporary_base()).text, strerror(error));
}

/* The last word of the command that is not an option names the kernel until it says a better one.
 */
static void name_after_command(ifa_kernel *k) {
  char *text = ifa_copy_string(k->text), *save = NULL, *name = NULL;
  for (char *word = text ? strtok_r(text, " \t\n", &save) : NULL; word;
       word = strtok_r(NULL, " \t\n", &save))
    if (*word != '-') name = word;
  if (name)
    ifa_kernel_set_name(k, strrchr(name, '/') && strrchr(name, '/')[1] ? strrchr(name, '/') + 1
                                                                       : name);
  free(text);
}

static ifa_status start_shell(ifa_kernel *k, ifa_message *message) {
  char shell[] = "/bin/sh", option[] = "-c", *command = shell_command(k->text, "");
  if (!command) return ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a command");
  ifa_status status =
      ifa_process_start(&k->process, (char *[]){shell, option, command, NULL}, 1, -1, message);
  free(command);
  return status;
}

/* A claim that is cut may be another, valid one. */
static ifa_status take_claim(const char *said, char claim[IFA_CLAIM_TEXT], ifa_message *message) {
  if (strlen(said) >= IFA_CLAIM_TEXT)
    return ifa_fail(message, IFA_BAD_ARGUMENT, "its claim has %zu characters; at most %d are read",
                    strlen(said), IFA_CLAIM_TEXT - 1);
  memcpy(claim, said, strlen(said) + 1);
  return IFA_OK;
}

ifa_verdict ifa_program_start(ifa_kernel *k, char claim[IFA_CLAIM_TEXT], ifa_status *trouble,
                              ifa_message *message) {
  name_after_command(k);
  if ((*trouble = make_folder(k, message)) != IFA_OK) return IFA_ABSENT;
  if (k->kind == IFA_KERNEL_ONE_SHOT) return IFA_PASSED;
  if ((*trouble = start_shell(k, message)) != IFA_OK) return IFA_ABSENT;
  double deadline = ifa_now() + k->timeout;
  json_t *request = json_pack("{s:s, s:i, s:i}", "request", "hello", "protocol", PROTOCOL,
                              "contract", IFA_CONTRACT_VERSION),
         *reply = NULL;
  ifa_verdict verdict = send_json(k, request, deadline, message);
  if (verdict == IFA_PASSED) verdict = receive_json(k, &reply, deadline, message);
  if (verdict == IFA_PASSED) {
    ifa_kernel_set_name(k, text_of(reply, "name", k->name));
    *trouble = take_claim(text_of(reply, "claim", "exact"), claim, message);
    /* "not available", and why */
    if (*trouble == IFA_OK && json_object_get(reply, "status"))
      verdict = judge_answer(reply, message);
  }
  json_decref(request);
  json_decref(reply);
  return verdict;
}

/* ---- a case's files ---- */

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place) {
  (void)status, (void)type, (void)place;
  remove(path);
  return 0;
}

/* With whatever the program has left in it; links are not followed. */
static void remove_folder(const char *folder) {
  nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void ifa_program_clean(ifa_kernel *k) {
  if (!k->folder) return;
  remove_folder(k->folder);
  ifa_cleanup_forget_folder(k->folder);
  free(k->folder);
  k->folder = NULL;
}

/* The problem with the words of the case language, numbers as numbers. */
static json_t *problem_json(const ifa_data *d) {
  char text[IFA_CASE_TEXT];
  json_t *json = json_object();
  if (ifa_problem_print(&d->p, text, sizeof text, NULL) != IFA_OK) return json;
  for (char *save = NULL, *word = strtok_r(text, " ", &save); word;
       word = strtok_r(NULL, " ", &save)) {
    char *value = strchr(word, '='), *end;
    *value++ = '\0';
    if (strstr(word, "stride")) continue; /* the files are dense */
    long long integer = strtoll(value, &end, 10);
    if (*end == '\0') json_object_set_new(json, word, json_integer(integer));
    else json_object_set_new(json, word, json_string(value));
  }
  json_object_set_new(json, "sm", json_real((double)d->p.sm_scale)); /* exact */
  json_object_set_new(json, "smooth", json_integer(d->c.smooth));
  json_t *rows = d->rows ? json_array() : json_null();
  for (int64_t i = 0; d->rows && i < d->row_count; i++)
    json_array_append_new(rows, json_integer((json_int_t)d->rows[i]));
  json_object_set_new(json, "rows", rows);
  ifa_case_print(&d->c, text);
  json_object_set_new(json, "case", json_string(text));
  return json;
}

/* "FOLDER/NAME", to be freed; NULL: no memory. */
static char *path_in(const char *folder, const char *name) {
  char *path = NULL;
  return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

static ifa_status write_tensors(const ifa_data *d, const char *folder, ifa_message *message) {
  tensor_set set = {0};
  char *path = path_in(folder, "input.safetensors");
  tensor_set_add_floats(&set, d);
  ifa_status status = path ? tensor_set_add_quantized(&set, d, message)
                           : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a path");
  if (status == IFA_OK) status = ifa_safetensors_write(path, set.list, set.count, NULL, 0, message);
  if (status != IFA_OK && path) hide_folder(message, path, "input.safetensors");
  tensor_set_free(&set);
  free(path);
  return status;
}

static ifa_status write_problem(const json_t *problem, const char *folder, ifa_message *message) {
  char *path = path_in(folder, "problem.json");
  errno = 0;
  int written = path && json_dump_file(problem, path, JSON_INDENT(1) | JSON_PRESERVE_ORDER) == 0;
  free(path);
  return written ? IFA_OK
                 : ifa_fail(message, IFA_IO, "cannot write problem.json: %s",
                            errno ? strerror(errno) : "no memory");
}

/* What fails here is said of the folder for temporary files, not of the kernel. */
static ifa_status write_case(const ifa_data *d, const char *folder, const json_t *problem,
                             ifa_message *message) {
  ifa_message why = {""};
  ifa_status status = IFA_OK;
  if (mkdir(folder, 0700) != 0)
    status = ifa_fail(&why, IFA_IO, "cannot make a folder: %s", strerror(errno));
  if (status == IFA_OK) status = write_tensors(d, folder, &why);
  if (status == IFA_OK) status = write_problem(problem, folder, &why);
  return status == IFA_OK ? IFA_OK
                          : ifa_fail(message, status, "the case's files in %s (TMPDIR): %s",
                                     ifa_shorten(temporary_base()).text, why.text);
}

static ifa_status find_output(const ifa_tensor_file *file, const char *name, ifa_tensor_type type,
                              int rank, const int64_t *shape, const ifa_tensor **t,
                              ifa_message *message) {
  ifa_status status = ifa_tensor_file_find(file, name, t, message);
  if (status != IFA_OK) return status;
  if ((*t)->type != type)
    return ifa_fail(message, IFA_BAD_FILE, "output.safetensors: %s is %s, not %s", name,
                    ifa_tensor_type_name((*t)->type), ifa_tensor_type_name(type));
  int same = (*t)->rank == rank;
  for (int i = 0; i < rank && same; i++) same = (*t)->shape[i] == shape[i];
  if (same) return IFA_OK;
  return ifa_fail(message, IFA_BAD_FILE,
                  "output.safetensors: %s has another shape than [%lld, %lld, %lld%s", name,
                  (long long)shape[0], (long long)shape[1], (long long)shape[2],
                  rank == 4 ? ", D]" : "]");
}

/* Computed rows into the buffers; what the file holds for other rows does not matter. */
static ifa_status read_output(const ifa_data *d, const char *folder, ifa_run_buffers *b,
                              ifa_message *message) {
  static const ifa_tensor_type types[] = {
      [IFA_F32] = IFA_TENSOR_F32, [IFA_F16] = IFA_TENSOR_F16, [IFA_BF16] = IFA_TENSOR_BF16};
  const ifa_problem *p = &d->p;
  const int64_t shape[4] = {p->batch, p->q_heads, p->nq, p->head_dim};
  size_t row_bytes = ifa_type_bytes(p->out_type) * (size_t)p->head_dim;
  ifa_tensor_file *file = NULL;
  const ifa_tensor *o, *lse;
  char *path = path_in(folder, "output.safetensors");
  ifa_status status = !path ? ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a path")
                      : access(path, F_OK) != 0
                          ? ifa_fail(message, IFA_BAD_FILE, "it wrote no output.safetensors")
                          : ifa_tensor_file_read(path, &file, message);
  if (status == IFA_OK) status = find_output(file, "o", types[p->out_type], 4, shape, &o, message);
  for (int64_t r = 0; status == IFA_OK && r < d->row_count; r++)
    memcpy(b->o.data + (size_t)ifa_output_index(d, r, 0) * ifa_type_bytes(p->out_type),
           (const char *)o->data + (size_t)(d->rows ? d->rows[r] : r) * row_bytes, row_bytes);
  if (status == IFA_OK && p->lse) {
    status = find_output(file, "lse", IFA_TENSOR_F32, 3, shape, &lse, message);
    for (int64_t r = 0; status == IFA_OK && r < d->row_count; r++) {
      int64_t row = d->rows ? d->rows[r] : r;
      memcpy(b->lse.data + row * 4, (const char *)lse->data + row * 4, 4);
    }
  }
  if (status != IFA_OK && path) hide_folder(message, path, "output.safetensors");
  ifa_tensor_file_free(file);
  free(path);
  return status;
}

/* Is there less room than the output takes? Then that a program fails may not be its own fault. */
static int is_full(const char *folder, const ifa_data *d) {
  struct statvfs about;
  double bytes = (double)ifa_type_bytes(d->p.out_type) * (double)d->p.head_dim + 4.0;
  bytes *= (double)d->p.batch * (double)d->p.q_heads * (double)d->p.nq;
  return statvfs(folder, &about) == 0 && (double)about.f_bavail * (double)about.f_frsize < bytes;
}

/* ---- running ---- */

static ifa_verdict ask(ifa_kernel *k, const char *folder, json_t *problem, double deadline,
                       ifa_message *message) {
  json_t *request =
             json_pack("{s:s, s:s, s:O}", "request", "run", "folder", folder, "problem", problem),
         *reply = NULL;
  ifa_verdict verdict = send_json(k, request, deadline, message);
  if (verdict == IFA_PASSED) verdict = receive_json(k, &reply, deadline, message);
  if (verdict == IFA_PASSED) verdict = judge_answer(reply, message);
  json_decref(request);
  json_decref(reply);
  return verdict;
}

static ifa_verdict start_and_wait(ifa_kernel *k, char *folder, double deadline, ifa_status *trouble,
                                  ifa_message *message) {
  char shell[] = "/bin/sh", option[] = "-c", *command = shell_command(k->text, " \"$1\"");
  int code = 0;
  if (!command) {
    *trouble = ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a command");
    return IFA_FAILED;
  }
  *trouble = ifa_process_start(&k->process, (char *[]){shell, option, command, shell, folder, NULL},
                               0, -1, message);
  free(command);
  if (*trouble != IFA_OK) return IFA_FAILED;
  ifa_verdict verdict = ifa_process_wait(&k->process, deadline, &code, message);
  if (verdict != IFA_PASSED || code == 0) return verdict;
  ifa_fail(message, IFA_BAD_DATA,
           code == EXIT_UNSUPPORTED ? "unsupported: exit code %d" : "it ended with exit code %d",
           code);
  return code == EXIT_UNSUPPORTED ? IFA_NOT_SUPPORTED : IFA_CRASHED;
}

ifa_verdict ifa_program_run(ifa_kernel *k, const ifa_data *d, ifa_run_buffers *buffers,
                            double *seconds, ifa_status *trouble, ifa_message *message) {
  char number[32], *folder;
  snprintf(number, sizeof number, "%06lld", (long long)++k->number);
  if (!(folder = path_in(k->folder, number))) {
    *trouble = ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for a folder's name");
    return IFA_FAILED;
  }
  json_t *problem = problem_json(d);
  ifa_verdict verdict = IFA_FAILED;
  *trouble = write_case(d, folder, problem, message);
  if (*trouble == IFA_OK) {
    double start = ifa_now();
    verdict = k->kind == IFA_KERNEL_ONE_SHOT
                  ? start_and_wait(k, folder, start + k->timeout, trouble, message)
                  : ask(k, folder, problem, start + k->timeout, message);
    *seconds = ifa_now() - start;
    if (verdict == IFA_PASSED && read_output(d, folder, buffers, message) != IFA_OK)
      verdict = IFA_BAD_OUTPUT;
    if (ifa_verdict_is_failure(verdict) && verdict != IFA_TIMED_OUT && is_full(folder, d))
      *trouble = ifa_fail(message, IFA_IO, "no room for the output in %s (TMPDIR)",
                          ifa_shorten(temporary_base()).text);
  }
  remove_folder(folder);
  free(folder);
  json_decref(problem);
  return verdict;
}
