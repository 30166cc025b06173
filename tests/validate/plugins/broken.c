/* broken.c - a plug-in that breaks, in the way that IFA_TEST_FAULT names, on cases with nk > 100;
 * others it gets right. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/validate/cheats/cheat.h"

static ifa_plugin plugin = {
    .abi = IFA_PLUGIN_ABI, .contract = IFA_CONTRACT_VERSION, .name = "broken", .claim = "exact"};

static int is(const char *fault) {
  return strcmp(getenv("IFA_TEST_FAULT") ? getenv("IFA_TEST_FAULT") : "", fault) == 0;
}

static ifa_status run(const ifa_problem *p, const ifa_plugin_inputs *in, const ifa_outputs *out,
                      ifa_message *why) {
  ifa_outputs unstaged = *out;
  if (is("silent") || is("one-stage")) unstaged.stages = NULL;
  ifa_problem twisted = *p; /* a left edge that is one key further */
  if (is("window") && p->causal && p->window) twisted.window++;
  ifa_status status = right(&twisted, in, &unstaged, why);
  if (p->nk <= 100) return status;
  if (is("segv")) raise(SIGSEGV);
  if (is("abort")) abort();
  if (is("exit")) exit(3);
  if (is("hang"))
    for (;;) pause();
  if (is("nan")) *(float *)out->o = NAN;
  if (is("status")) return snprintf(why->text, sizeof why->text, "no luck"), IFA_BAD_DATA;
  if (is("say")) { /* IFA_TEST_WORDS again and again, cut wherever the message ends */
    const char *words = getenv("IFA_TEST_WORDS");
    for (size_t i = 0; i + 1 < sizeof why->text; i++) why->text[i] = words[i % strlen(words)];
    why->text[sizeof why->text - 1] = '\0';
    return IFA_BAD_DATA;
  }
  if (is("stage") && out->stages) out->stages->l[0]++;
  if (is("stage")) *(uint8_t *)out->o ^= 1;
  /* it says yes to stages and shows none, or one */
  if (is("silent") || is("one-stage")) *(uint8_t *)out->o ^= 1;
  if (is("one-stage") && out->stages) out->stages->l[0] = 1;
  if (is("cut") && ftruncate(3, 64) != 0) return IFA_IO; /* the memory that the case is in */
  if (is("unsupported")) return snprintf(why->text, sizeof why->text, "nk"), IFA_UNSUPPORTED;
  return IFA_OK;
}

const ifa_plugin *ifa_plugin_get(void) {
  plugin.run = run;
  if (is("abi")) plugin.abi = IFA_PLUGIN_ABI + 1;
  if (is("contract")) plugin.contract = IFA_CONTRACT_VERSION + 1;
  if (is("claim")) plugin.claim = "perfect";
  if (is("start-abort")) abort();
  if (is("start-hang"))
    for (;;) pause();
  return is("null") ? NULL : &plugin;
}
