// Checked against https://developer.android.com/reference/android/database/Cursor
package android.database;

import java.io.Closeable;

public interface Cursor extends Closeable {
  boolean moveToNext();

  String getString(int columnIndex);

  void close();
}
