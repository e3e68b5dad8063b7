// Types of a dashboard for .ci/metrics/dashboard.sh. JSON is TypeScript, so the compiler checks an annotated constant member by
// member, unknown ones included. Grafana's own type accepts any options and queries of a panel; here each kind of panel has those
// of its plugin.
import type { Dashboard as Whole, DataQuery, FieldConfig, FieldConfigSource, Panel as Any } from '@grafana/schema';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as Timeline, FieldConfig as TimelineField } from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type { Options as Series, FieldConfig as SeriesField } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// Grafana's enums by their values, as in JSON.
type Json<T> = 0 extends 1 & T ? T : T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

interface Query extends DataQuery {
  expr: string;
  legendFormat: string;
  instant?: boolean;
  range?: boolean;
}
// `custom` has exactly these members; Grafana's types accept any.
interface Fields<Custom> extends Omit<FieldConfigSource, 'defaults'> {
  defaults: Omit<FieldConfig, 'custom'> & { custom?: Custom };
}
interface Panel<Kind, Options, Custom> extends Omit<Any, 'type' | 'options' | 'targets' | 'fieldConfig'> {
  type: Kind;
  title: string;
  gridPos: NonNullable<Any['gridPos']>;
  options: Options;
  targets: Query[];
  fieldConfig: Fields<Custom>;
}
interface Exact extends Omit<Whole, 'panels'> {
  uid: string;
  title: string;
  panels: (Panel<'stat', Stat, never> | Panel<'state-timeline', Timeline, TimelineField> | Panel<'timeseries', Series, SeriesField>)[];
}
export type Dashboard = Json<Exact>;
