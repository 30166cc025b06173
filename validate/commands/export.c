/* export.c - `validate export`: a case and the oracle's answer as a file, for checking an
 * implementation anywhere. */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/problem.h"
#include "validate/commands/commands.h"
#include "validate/cases/tensors.h"
#include "validate/reports/files.h"

typedef struct options {
  const char *text, *output;
} options;

static const struct argp_option option_list[] = {
    {"case", 'c', "\"K=V ...\"", 0, "the case (one line, no lists)", 0},
    {"output", 'o', "FILE", 0, "the safetensors file to write", 0},
    {0}};

static error_t parse(int key, char *value, struct argp_state *state) {
  options *o = state->input;
  if (key == 'c') o->text = value;
  else if (key == 'o') o->output = value;
  else return ARGP_ERR_UNKNOWN;
  return 0;
}

static const struct argp parser = {
    option_list,
    parse,
    "",
    "Writes a case and the oracle's answer: q, k, v (F32), the quantized operands and scales, o "
    "and lse, all dense. "
    "Metadata: problem (the text form of the problem), smooth, operands (`quantized` from q, k, v, "
    "or `given`: some fills draw them), case, contract.",
    NULL,
    NULL,
    NULL};

static ifa_status write_case(const ifa_case *c, const char *path, ifa_message *message) {
  ifa_data d;
  tensor_set set = {0};
  void *o = NULL;
  float *lse = NULL;
  char problem[IFA_CASE_TEXT], text[IFA_CASE_TEXT], contract[16];
  ifa_status status = ifa_data_make(c, &d, message);
  if (status == IFA_OK && d.rows)
    status =
        ifa_fail(message, IFA_BAD_ARGUMENT, "rows=%d: an exported case has all rows", (int)c->rows);
  if (status == IFA_OK) {
    ifa_problem dense = d.p; /* the file holds dense tensors */
    dense.q_stride = dense.k_stride = dense.v_stride = dense.o_stride = (ifa_strides){0};
    size_t elements = (size_t)(d.p.batch * d.p.q_heads * d.p.nq * d.p.head_dim);
    o = calloc(elements + 1, 4);
    lse = d.p.lse ? calloc(elements + 1, 4) : NULL;
    ifa_problem run = d.p;
    run.o_stride = (ifa_strides){0};
    ifa_inputs in = ifa_data_inputs(&d);
    ifa_outputs out = {.o = o, .lse = lse};
    status = o && (lse || !d.p.lse)
                 ? ifa_run("scalar", &run, &in, &out, message)
                 : ifa_fail(message, IFA_OUT_OF_MEMORY, "no memory for the output");
    if (status == IFA_OK) status = ifa_problem_print(&dense, problem, sizeof problem, message);
    tensor_set_add_floats(&set, &d);
    if (status == IFA_OK) status = tensor_set_add_quantized(&set, &d, message);
    tensor_set_add_output(&set, &d.p, o, lse);
    ifa_case_print(&d.c, text);
    snprintf(contract, sizeof contract, "%d", IFA_CONTRACT_VERSION);
    int drawn = d.c.minus_zero || (ifa_fill_draws_operands(d.c.fill) && !d.c.input[0]);
    const ifa_metadata metadata[] = {{"problem", problem},
                                     {"smooth", d.c.smooth ? "1" : "0"},
                                     {"operands", drawn ? "given" : "quantized"},
                                     {"case", text},
                                     {"contract", contract}};
    if (status == IFA_OK)
      status = ifa_safetensors_write(path, set.list, set.count, metadata, 5, message);
  }
  tensor_set_free(&set);
  free(o);
  free(lse);
  ifa_data_free(&d);
  return status;
}

int cmd_export(int argc, char **argv) {
  options o = {0};
  ifa_case c;
  ifa_message why;
  if (argp_parse(&parser, argc, argv, 0, NULL, &o) != 0 || !o.text || !o.output)
    return complain("export", "--case and --output are needed");
  if (ifa_case_parse(o.text, &c, &why) != IFA_OK || ifa_output_prepare(o.output, &why) != IFA_OK ||
      write_case(&c, o.output, &why) != IFA_OK)
    return complain("export", "%s", why.text);
  return EXIT_AGREE;
}
