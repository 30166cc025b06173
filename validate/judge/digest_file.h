/* digest_file.h - files of digests: the goldens (what the oracle gives) and records (what a device
 * gave). Text: '#' lines, then a line a case: 16 hexadecimal digits of the quantized inputs, 32 of
 * output and log-sum-exp, the case. The first line names the contract's version, the last one the
 * number of cases. A record may have a benchmark table in its head: validate/bench/bench_table.h.
 */
#ifndef IFA_VALIDATE_DIGEST_FILE_H
#define IFA_VALIDATE_DIGEST_FILE_H

#include "validate/cases/suite.h"

typedef struct ifa_digest_counts {
  int written, agree, differ; /* cases */
  int unsupported, not_available;
} ifa_digest_counts;

/* Runs the cases with a backend and writes their digests to `path`, whole or not at all. `notes`:
 * NULL, or "# ..." lines for the head. Cases that the backend does not support or that this build
 * cannot read are counted and left out; any other failure ends it. */
ifa_status ifa_digest_file_write(const char *path, const ifa_case_list *list, const char *backend,
                                 const char *notes, ifa_digest_counts *counts,
                                 ifa_message *message);

/* Recomputes a file's digests with a backend; prints a line for each case that differs. A file
 * named after a built-in suite must hold that suite's cases, all of them and in order.
 * IFA_BAD_ARGUMENT: no such backend. IFA_BAD_FILE: malformed, cut, or not the suite. */
ifa_status ifa_digest_file_check(const char *path, const char *backend, ifa_digest_counts *counts,
                                 ifa_message *message);

/* Digest of the GPU kernels' source in the tree that this program was built from. */
const char *ifa_gpu_source_digest(void);

#endif
