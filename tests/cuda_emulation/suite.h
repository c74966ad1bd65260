#pragma once

#include "harness.h"

void dense_suite();
void rows_suite();
void hopper_suite();
