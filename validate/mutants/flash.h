/* flash.h - FlashAttention in floats, arranged as such kernels are, that can be told its order of
 * summation and one of the mistakes of flash_faults.h. It is judged as a stranger's kernel is: by
 * its claim's bound (validate/judge/close.h). Without a fault it is what the bound must let pass.
 */
#ifndef IFA_VALIDATE_MUTANTS_FLASH_H
#define IFA_VALIDATE_MUTANTS_FLASH_H

#include "validate/judge/claim.h"
#include "validate/judge/compare.h"
#include "validate/mutants/flash_faults.h"

#define IFA_FLASH_ENUM(name, ...) IFA_FLASH_##name,
typedef enum ifa_flash_fault {
  IFA_FLASH_no_fault = 0,
  IFA_FLASH_FAULTS(IFA_FLASH_ENUM) IFA_FLASH_FAULT_COUNT
} ifa_flash_fault;

typedef enum ifa_flash_order {
  IFA_FLASH_TILED = 0, /* tiles of 64 keys, a running maximum */
  IFA_FLASH_NAIVE,     /* the maximum first, then one key after the other */
  IFA_FLASH_PAIRWISE,  /* the maximum first, then a tree */
  IFA_FLASH_BACKWARD,  /* tiles from the last to the first */
  IFA_FLASH_SPLIT      /* splits of 128 keys, each tiled, merged at the end */
} ifa_flash_order;

typedef enum ifa_flash_exp {
  IFA_FLASH_EXP_RIGHT = 0,
  IFA_FLASH_EXP_HIGH, /* two units in the last place too large */
  IFA_FLASH_EXP_LOW,
  IFA_FLASH_EXP_EITHER /* high or low, by the argument's bits */
} ifa_flash_exp;

typedef struct ifa_flash {
  const char *claim; /* operands: a float format, or e4m3/head; weights: any */
  ifa_flash_order order;
  ifa_flash_exp exp;
  int l_of_rounded; /* does l sum the rounded weights? */
  ifa_flash_fault fault;
  int tile; /* keys a tile; 0: 64 */
} ifa_flash;

/* The two whose faults are in the catalogue. */
extern const ifa_flash ifa_flash_f16, ifa_flash_fp8;

/* Names and sentences of the catalogue. */
const char *ifa_flash_fault_what(ifa_flash_fault fault);

/* Computes a case from its floats. No stages. May run in several threads at once. */
ifa_status ifa_flash_run(const ifa_flash *flash, const ifa_data *data, const ifa_outputs *outputs,
                         ifa_message *message);

#endif
