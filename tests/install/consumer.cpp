// The same program as C++17: the header must compile there.
#include "consumer.c"
