#ifndef CONTROL_SIMC_H
#define CONTROL_SIMC_H

/* PI and PID settings from a process model: SIMC (Skogestad, Simple analytic rules for model reduction and
 * PID controller tuning, J. Process Control 13, 2003). */

#include <stddef.h>

struct pid_settings;

/* gain e^{-delay s} / ((lag1 s + 1)(lag2 s + 1)); times in seconds. lag2 is 0 for a first-order model. */
struct simc_model {
  double gain, lag1, lag2, delay;
};

/* Half rule: reduces a delay and lags (largest first) with inverse-response zeros (each as a positive time
 * constant) to a model of order 1 or 2. Half of the sampling period is added to the delay. */
void simc_reduce(struct simc_model *model, int order, double gain, double delay, const double *lags,
                 size_t lag_count, const double *zeros, size_t zero_count, double sampling_s);

/* Sets gain, integral_s and derivative_s. tau_c: wished closed-loop time constant, `delay` for the usual
 * balance of speed and robustness. A second lag gives derivative action, converted from the series to the
 * ideal form. */
void simc_tune(const struct simc_model *model, double tau_c, struct pid_settings *settings);

#endif
