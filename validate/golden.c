/* golden - digests of what the oracle gives for the cases of the suites.
 *
 *   golden write FOLDER SUITE...     runs each suite with the oracle and writes FOLDER/SUITE.txt
 *   golden check BACKEND FILE...     recomputes the digests of the files' cases with a backend and
 *                                    compares
 *
 * It needs nothing but the library itself, so it is also what cross-compiled builds run. Exit
 * codes: 0 all agree, 1 a difference, 2 bad usage or file, 3 nothing was executed. */
#include <stdio.h>
#include <string.h>

#include "validate/judge/digest_file.h"
#include "validate/text/console.h"
#include "validate/text/visible.h"

static int write_suite(const char *folder, const char *suite) {
  char path[1024];
  ifa_case_list list = {0};
  ifa_case base = ifa_case_default();
  ifa_digest_counts counts = {0};
  ifa_message why;
  if (snprintf(path, sizeof path, "%s/%s.txt", folder, suite) >= (int)sizeof path) {
    fprintf(stderr, "golden: the path of the folder is too long\n");
    return 2;
  }
  ifa_status status = ifa_case_list_add_suite(&list, suite, &base, &why);
#ifdef IFA_NO_JANSSON
  for (size_t i = 0; status == IFA_OK && i < list.count; i++)
    if (list.cases[i].input[0])
      status =
          ifa_fail(&why, IFA_NOT_AVAILABLE, "%s needs tensor files: built without jansson", suite);
#endif
  if (status == IFA_OK) status = ifa_digest_file_write(path, &list, "scalar", NULL, &counts, &why);
  ifa_case_list_free(&list);
  if (status != IFA_OK) ifa_print_visible_line(stderr, "golden: %s", why.text);
  return status == IFA_OK ? 0 : 2;
}

static int check_files(const char *backend, char **paths, int count) {
  ifa_digest_counts n = {0};
  ifa_message why;
  for (int i = 0; i < count; i++)
    if (ifa_digest_file_check(paths[i], backend, &n, &why) != IFA_OK) {
      ifa_print_visible_line(stderr, "golden: %s", why.text);
      return 2;
    }
  printf("golden %s: %d agree, %d differ, %d unsupported, %d not available\n", backend, n.agree,
         n.differ, n.unsupported, n.not_available);
  return n.differ ? 1 : n.agree ? 0 : 3;
}

int main(int argc, char **argv) {
  ifa_console_begin("golden");
  int writing = argc >= 4 && strcmp(argv[1], "write") == 0,
      checking = argc >= 4 && strcmp(argv[1], "check") == 0, bad = 0;
  if (!writing && !checking) {
    fprintf(stderr, "usage: golden write FOLDER SUITE...\n       golden check BACKEND FILE...\n");
    return 2;
  }
  if (checking) return ifa_console_end(check_files(argv[2], argv + 3, argc - 3));
  for (int i = 3; i < argc && !bad; i++) bad = write_suite(argv[2], argv[i]);
  return ifa_console_end(bad);
}
