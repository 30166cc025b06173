/* bench_table.h - the benchmark table that a record keeps beside its digests: figures of the card,
 * as bench_gpu measured them. They are checked for being well formed and for following from each
 * other, never for being fast.
 *
 *     # bench ceiling: 1289.3 TOPS of mma.sync u8*s8, 4302.1 GB/s of copies within memory
 *     # bench settings: median of 9 groups ...; PyTorch 2.11.0
 *     # bench: kernel | b=1 hq=16 hkv=16 nq=16384 nk=16384 d=128 vscale=channel tau=4 out=f16 |
 *       3.1000 ms | 709.3 TOPS | 55.01% of the ceiling | 44.2 GB/s
 *     # bench: from f16 | b=4 ... | 0.9000 ms | 610.8 TOPS | 47.37% of the ceiling | 74.6 GB/s |
 *       87.10% of the kernel
 *     # bench lines: 2
 * */
#ifndef IFA_VALIDATE_BENCH_TABLE_H
#define IFA_VALIDATE_BENCH_TABLE_H

#include "ifa.h"

/* What a file's table has shown so far; begins as all zeros. */
typedef struct ifa_bench_table {
  double ceiling; /* TOPS; 0: not seen */
  int lines;      /* "# bench: " */
  int announced;  /* "# bench lines: ", -1 for 0; 0: not seen */
} ifa_bench_table;

/* One line of a record, without its newline. Lines that are no part of a table are IFA_OK and
 * change nothing. IFA_BAD_FILE: malformed; a problem that is none; TOPS or a percentage that do not
 * follow from the time, the problem and the ceiling. */
ifa_status ifa_bench_table_line(ifa_bench_table *table, const char *line, ifa_message *message);

/* At the file's end: all lines are there, or there is no table. IFA_BAD_FILE. */
ifa_status ifa_bench_table_end(const ifa_bench_table *table, ifa_message *message);

/* What `bench_gpu --json FILE` wrote, as the lines of a table (*lines, to be freed) and a
 * description of the card (*device, to be freed). They pass the check above. IFA_BAD_FILE: not such
 * a file, other kernels' (another digest of gpu/), another contract's. */
ifa_status ifa_bench_table_read(const char *path, char **lines, char **device,
                                ifa_message *message);

#endif
