/* The practical limit: the whole work in one pass over the samples, with its state kept between calls. */
#include <math.h>

#define SECTIONS 5
#define HOP 25
#define WINDOW_HOPS 8

typedef struct {
    double z[SECTIONS][2];
    double energy[WINDOW_HOPS]; /* sums of squares of the last hops, a ring */
    double sum;                 /* of the hop under way */
    long in_hop, hops, up, run, events;
} State;

long state_size(void) { return sizeof(State); }

/* Take n samples; write the % of `reference` of each completed hop to `levels`, NaN until the window is full. */
long fused(State *s, const double *x, long n, const double sos[SECTIONS][6], double reference, double on_pct,
           double off_pct, long least_hops, double *levels)
{
    const double scale = 1.0 / (HOP * WINDOW_HOPS), to_pct = 100.0 / reference;
    long done = 0;
    for (long i = 0; i < n; i++) {
        double v = x[i];
        for (int k = 0; k < SECTIONS; k++) {
            const double y = sos[k][0] * v + s->z[k][0];
            s->z[k][0] = sos[k][1] * v - sos[k][4] * y + s->z[k][1];
            s->z[k][1] = sos[k][2] * v - sos[k][5] * y;
            v = y;
        }
        s->sum += v * v;
        if (++s->in_hop < HOP)
            continue;
        s->energy[s->hops++ % WINDOW_HOPS] = s->sum;
        s->sum = 0.0;
        s->in_hop = 0;
        double total = 0.0;
        for (int k = 0; k < WINDOW_HOPS; k++)
            total += s->energy[k];
        const double level = s->hops < WINDOW_HOPS ? NAN : to_pct * sqrt(total * scale);
        s->up = s->up ? level >= off_pct : level >= on_pct;
        s->run = s->up ? s->run + 1 : 0;
        s->events += s->run == least_hops;
        levels[done++] = level;
    }
    return done;
}
